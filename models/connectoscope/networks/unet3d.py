"""A 3D U-Net for volumes whose sections may be thicker than their pixels (Çiçek et al. 2016, arXiv 1606.06650).

Convolution, batch norm and ReLU only: whatever normalises over space (instance, group, layer norm) would make a
voxel depend on its tile. The first step may be a *stem*, which moves blocks of voxels into channels without loss
(space to depth), so that a network works at half resolution while it reads and writes the full one::

    input ─ stem ─ [conv conv] ───────────────────────── cat ─ [conv conv] ─ head ─ unstem (─ smooth) ─ logits
                        └ pool ─ [conv conv] ── cat ─ [conv conv] ─ up ┘
                                      └ pool ─ [conv conv] ─ up ┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from connectoscope.networks.smooth import radius, smoothed
from connectoscope.volumes.geometry import Index3

SIGMAS = (0.1, 32)  # pixels: below there is nothing to smooth, beyond tiles would be all halo


@dataclass(frozen=True)
class UNet3dArguments:
    """All that :class:`UNet3d` is built from; stands in the model card.

    Args:
        outputs: Number of output channels (logits).
        features: Channels of each level, finest first; also of each level's decoder.
        kernels: Kernel sizes (z, y, x; odd) of the convolutions of each level; the same ones encode and decode.
        strides: Pooling from each level to the next; one fewer than levels.
        stem: Voxels moved into channels at the input and back at the output.
        in_channels: Channels of the input image.
        widths: Channels of single convolutions, by name (``encoders.0.1``, ``ups.0``), where they are others than
            ``features``: what pruning leaves.
        smooth: Standard deviation, in pixels of y and x, of the Gaussian that the logits of each output are smoothed
            with; 0 for none, empty for none at all.
    """

    outputs: int
    features: tuple[int, ...]
    kernels: tuple[tuple[Index3, ...], ...]
    strides: tuple[Index3, ...]
    stem: Index3 = (1, 1, 1)
    in_channels: int = 1
    widths: Mapping[str, int] = field(default_factory=dict)
    smooth: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.widths, Mapping):
            raise ValueError(f"widths must name convolutions, got {self.widths}")
        counts = [self.outputs, self.in_channels, *self.features, *self.widths.values()]
        if not all(_whole(count) for count in counts):
            raise ValueError(
                f"outputs, in_channels, features and widths must be whole numbers from 1 on, got {counts}"
            )
        for sizes in (self.stem, *self.strides, *(kernel for row in self.kernels for kernel in row)):
            if not (isinstance(sizes, tuple) and len(sizes) == 3 and all(map(_whole, sizes))):
                raise ValueError(
                    f"stem, strides and kernels must be z, y, x in whole voxels from 1 on, got {sizes}"
                )
        levels = len(self.features)
        if levels < 1 or len(self.kernels) != levels or len(self.strides) != levels - 1:
            raise ValueError(
                f"a U-Net of {levels} levels needs {levels} rows of kernels and {levels - 1} strides, "
                f"got {len(self.kernels)} and {len(self.strides)}"
            )
        if any(k % 2 == 0 for row in self.kernels for kernel in row for k in kernel):
            raise ValueError("kernel sizes must be odd, so that an output voxel lies on an input voxel")
        if not all(self.kernels):
            raise ValueError("each level needs a convolution")
        if self.widths.keys() - set(self.convolutions()):
            raise ValueError(f"widths must name convolutions, got {dict(self.widths)}")
        if not (
            isinstance(self.smooth, tuple)
            and len(self.smooth) in (0, self.outputs)
            and all(map(_sigma, self.smooth))
        ):
            raise ValueError(
                f"smooth must be pixels, 0 or from {SIGMAS[0]} to {SIGMAS[1]}, one for each of {self.outputs} outputs, "
                f"got {self.smooth}"
            )

    @classmethod
    def parse(cls, arguments: dict[str, object]) -> UNet3dArguments:
        """From a card's or a recipe's JSON values, where tuples are lists."""

        def tuples(value: object) -> object:
            return tuple(tuples(v) for v in value) if isinstance(value, (list, tuple)) else value

        return cls(**{name: tuples(value) for name, value in arguments.items()})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """As on a card; ``widths`` and ``smooth`` only where there are some."""
        return {k: v for k, v in asdict(self).items() if v or k not in ("widths", "smooth")}

    def convolutions(self) -> list[str]:
        """Names of all convolutions with a batch norm, encoders first, each level's in order."""
        rows = [(level, range(len(row))) for level, row in enumerate(self.kernels)]
        encoders = [f"encoders.{level}.{i}" for level, row in rows for i in row]
        ups = [f"ups.{level}" for level, _ in rows[:-1]]
        return encoders + ups + [f"decoders.{level}.{i}" for level, row in rows[:-1] for i in row]

    def width(self, name: str) -> int:
        """Channels that a convolution gives."""
        return self.widths.get(name, self.features[int(name.split(".")[1])])

    @property
    def values_per_voxel(self) -> float:
        """Values that its widest convolution at the finest level reads and writes, per input voxel.

        What a tile needs of memory is a few times as much.
        """
        stem = self.stem[0] * self.stem[1] * self.stem[2]
        row = range(len(self.kernels[0]))
        encoder = [self.in_channels * stem, *(self.width(f"encoders.0.{i}") for i in row)]
        pairs = list(pairwise(encoder))
        if len(self.features) > 1:
            joined = self.width("ups.0") + encoder[-1]
            pairs += pairwise([joined, *(self.width(f"decoders.0.{i}") for i in row)])
        return max(a + b for a, b in pairs) / stem

    @property
    def total_stride(self) -> Index3:
        """Input voxels per voxel of the coarsest level; tile origins and shapes are multiples of it."""
        total = [*self.stem]
        for stride in self.strides:
            total = [t * s for t, s in zip(total, stride, strict=True)]
        return (total[0], total[1], total[2])

    def reach(self) -> Index3:
        """Voxels that an output voxel depends on to its farther side, at most, along each axis."""
        z, y, x = (self._axis_reach(axis) for axis in range(3))
        return (z, y + radius(self.smooth), x + radius(self.smooth))

    def receptive_field(self) -> Index3:
        """``2 * reach + 1``: the smallest odd window that holds all that an output voxel depends on."""
        z, y, x = self.reach()
        return (2 * z + 1, 2 * y + 1, 2 * x + 1)

    def halo(self) -> Index3:
        """The exact halo per side: the reach, rounded up to the total stride."""
        return tuple(-(-r // s) * s for r, s in zip(self.reach(), self.total_stride, strict=True))  # type: ignore[return-value]

    def _axis_reach(self, axis: int) -> int:
        """Follow backwards what one output voxel depends on, for every phase of the total stride."""
        radius = [sum(kernel[axis] // 2 for kernel in row) for row in self.kernels]
        stride = [s[axis] for s in self.strides]
        stem = self.stem[axis]

        def encoder(level: int, low: int, high: int) -> tuple[int, int]:
            low, high = low - radius[level], high + radius[level]
            if level == 0:
                return low, high
            s = stride[level - 1]
            return encoder(level - 1, low * s, high * s + s - 1)

        def decoder(level: int, low: int, high: int) -> tuple[int, int]:
            if level == len(radius) - 1:
                return encoder(level, low, high)
            low, high = low - radius[level], high + radius[level]
            a, b = encoder(level, low, high)
            c, d = decoder(level + 1, low // stride[level], high // stride[level])
            return min(a, c), max(b, d)

        reach = 0
        for voxel in range(self.total_stride[axis]):
            low, high = decoder(0, voxel // stem, voxel // stem)
            reach = max(reach, voxel - low * stem, high * stem + stem - 1 - voxel)
        return reach


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _sigma(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (value == 0 or SIGMAS[0] <= value <= SIGMAS[1])  # type: ignore[operator]


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, ReLU; ``(B, C, Z, Y, X)`` in, same Z, Y, X out (zero padding)."""

    def __init__(self, channels: int, features: int, kernel: Index3) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(
            nn.Conv3d(channels, features, kernel, padding=padding, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(inplace=True),
        )


def space_to_depth(x: Tensor, factor: Index3) -> Tensor:
    """``(B, C, Z, Y, X)`` to ``(B, C * prod(factor), Z / fz, Y / fy, X / fx)``, without loss."""
    b, c, z, y, w = x.shape
    fz, fy, fx = factor
    x = x.reshape(b, c, z // fz, fz, y // fy, fy, w // fx, fx)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * fz * fy * fx, z // fz, y // fy, w // fx)


def depth_to_space(x: Tensor, factor: Index3) -> Tensor:
    """The inverse of :func:`space_to_depth`."""
    b, c, z, y, w = x.shape
    fz, fy, fx = factor
    x = x.reshape(b, c // (fz * fy * fx), fz, fy, fx, z, y, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // (fz * fy * fx), z * fz, y * fy, w * fx)


class UNet3d(nn.Module):
    """The network; see the module's picture.

    Input ``(B, in_channels, Z, Y, X)``, normalised intensities, each of Z, Y, X a multiple of the total stride.
    Output ``(B, outputs, Z, Y, X)`` logits on the same voxels.
    """

    def __init__(self, arguments: UNet3dArguments) -> None:
        super().__init__()
        self.arguments = a = arguments
        stem = a.stem[0] * a.stem[1] * a.stem[2]
        self.encoders = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.decoders = nn.ModuleList()
        channels = a.in_channels * stem
        skips = []
        for level, kernels in enumerate(a.kernels):
            block = [a.width(f"encoders.{level}.{i}") for i in range(len(kernels))]
            self.encoders.append(_block(channels, block, kernels))
            channels = block[-1]
            skips.append(channels)
        # From the coarsest level on, since each level's input is what the one below gives.
        ups, decoders = [], []
        for level in reversed(range(len(a.features) - 1)):
            up = a.width(f"ups.{level}")
            ups.append(ConvUnit(channels, up, (1, 1, 1)))
            block = [a.width(f"decoders.{level}.{i}") for i in range(len(a.kernels[level]))]
            decoders.append(_block(up + skips[level], block, a.kernels[level]))
            channels = block[-1]
        self.ups.extend(reversed(ups))
        self.decoders.extend(reversed(decoders))
        self.head = nn.Conv3d(channels, a.outputs * stem, 1)

    def encode(self, x: Tensor) -> list[Tensor]:
        """``(B, features, Z, Y, X)`` of each level, finest first, of an input as :meth:`forward` takes it."""
        a = self.arguments
        x = space_to_depth(x, a.stem)
        levels: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            if level:
                x = F.max_pool3d(x, a.strides[level - 1], a.strides[level - 1])
            x = encoder(x)
            levels.append(x)
        return levels

    def forward(self, x: Tensor, halo: Index3 = (0, 0, 0)) -> Tensor:
        """Logits of ``x``, without the ``halo`` voxels at each side (multiples of the stem).

        Decoders compute no more of the halo than what is kept depends on: the same values for less work.
        """
        return smoothed(self._logits, x, halo, self.arguments.stem, self.arguments.smooth)

    def _logits(self, x: Tensor, halo: Index3) -> Tensor:
        skips = self.encode(x)
        x = self._decode_core(skips, halo) if any(halo) else self._decode(skips)
        return depth_to_space(self.head(x), self.arguments.stem)

    def _decode(self, skips: list[Tensor]) -> Tensor:
        """All of it; an exporter can follow this for any shape."""
        x = skips[-1]
        for level in reversed(range(len(self.decoders))):
            # Project before up-sampling: a 1 x 1 x 1 convolution and nearest neighbours commute.
            x = F.interpolate(self.ups[level](x), size=skips[level].shape[2:], mode="nearest")
            x = self.decoders[level](torch.cat((x, skips[level]), dim=1))
        return x

    def _decode_core(self, skips: list[Tensor], halo: Index3) -> Tensor:
        regions = self._regions([tuple(skip.shape[2:]) for skip in skips], halo)
        x = _cut(skips[-1], regions[-1].wanted)
        for level in reversed(range(len(self.decoders))):
            below, here, stride = regions[level + 1].wanted, regions[level], self.arguments.strides[level]
            size = [(stop - start) * s for (start, stop), s in zip(below, stride, strict=True)]
            x = F.interpolate(self.ups[level](x), size=size, mode="nearest")
            offset = [start * s for (start, _), s in zip(below, stride, strict=True)]
            x = torch.cat((_cut(x, here.read, offset), _cut(skips[level], here.read)), dim=1)
            x = _cut(self.decoders[level](x), here.wanted, [start for start, _ in here.read])
        return x

    def _regions(self, shapes: list[tuple[int, ...]], halo: Index3) -> list[_Region]:
        """Of each level, finest first: from what is kept backwards, what each decoder must read and give."""
        a = self.arguments
        wanted = [(h // s, n - h // s) for h, s, n in zip(halo, a.stem, shapes[0], strict=True)]
        regions = []
        for level, stride in enumerate(a.strides):
            radius = [sum(kernel[axis] // 2 for kernel in a.kernels[level]) for axis in range(3)]
            read = [
                (max(start - r, 0), min(stop + r, n))
                for (start, stop), r, n in zip(wanted, radius, shapes[level], strict=True)
            ]
            regions.append(_Region(read, wanted))
            wanted = [(start // s, -(-stop // s)) for (start, stop), s in zip(read, stride, strict=True)]
        return [*regions, _Region(wanted, wanted)]


class _Region(NamedTuple):
    """(start, stop) for z, y, x at a level: what its decoder reads, and what of its output is used."""

    read: list[tuple[int, int]]
    wanted: list[tuple[int, int]]


def _cut(x: Tensor, region: Sequence[tuple[int, int]], offset: Sequence[int] = (0, 0, 0)) -> Tensor:
    """``region`` of ``x``, whose first voxel lies at ``offset``."""
    z, y, w = (slice(a - o, b - o) for (a, b), o in zip(region, offset, strict=True))
    return x[:, :, z, y, w]


def _block(channels: int, features: Sequence[int], kernels: Sequence[Index3]) -> nn.Sequential:
    sources = [channels, *features[:-1]]
    return nn.Sequential(*(ConvUnit(*unit) for unit in zip(sources, features, kernels, strict=True)))
