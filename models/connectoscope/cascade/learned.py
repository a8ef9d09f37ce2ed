"""The companion of a model: a small network that sees, at a coarse level, where the model would find something.

It is the gate of the level above the finest (Athey, Sawmya, Shavit 2025, arXiv 2504.21598); how it is trained stands
in :mod:`connectoscope.cascade.distillation`::

    coarse cell + halo -> normalise -> network -> heat map of each output -> the largest value in the core = the score
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from connectoscope.errors import UserError
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.normalise import normalise
from connectoscope.networks.precision import PRECISIONS
from connectoscope.networks.registry import parse_architecture
from connectoscope.networks.unet3d import UNet3dArguments
from connectoscope.volumes.geometry import Float3, Index3
from connectoscope.volumes.pyramid import pyramid_factors

if TYPE_CHECKING:
    from connectoscope.segmentation.targets import Target
    from connectoscope.zoo import Bundle

FEATURES = (32, 32)  # 48 or 64 in the second level: three times slower to train on a CPU, in bfloat16


@dataclass(frozen=True)
class Geometry:
    """The coarse level and what is cut from it; (z, y, x).

    Attributes:
        factor: Grid voxels per coarse voxel.
        voxel_size: Of the coarse level, in the unit of the model's.
        arguments: Of the network.
        halo: Coarse voxels read around a cell: two of the network's strides, or less where it reaches less.
        window: Coarse voxels of the cells in loss and scores.
    """

    factor: Index3
    voxel_size: Float3
    arguments: UNet3dArguments
    halo: Index3
    window: Index3

    @property
    def patch(self) -> Index3:
        """Training patches: a window deep, two wide and high, and a halo all around."""
        z, y, x = (w * n + 2 * h for w, n, h in zip(self.window, (1, 2, 2), self.halo, strict=True))
        return (z, y, x)


def gate_geometry(voxel_size: Float3, outputs: int, factor: Index3 | None) -> Geometry:
    """What suits a model of voxels of ``voxel_size`` (any unit), thick sections or isotropic ones.

    Args:
        outputs: Channels of the gate.
        factor: Grid voxels per coarse voxel; None: those of the first level of a pyramid.
    """
    factor = pyramid_factors((2**20,) * 3, voxel_size)[1] if factor is None else factor
    size = (voxel_size[0] * factor[0], voxel_size[1] * factor[1], voxel_size[2] * factor[2])
    sections = size[0] >= 1.5 * min(size[1:])
    # A cheap network works at a fraction of the resolution that it reads; sections are not merged.
    side = 4 if size[0] >= 3 * min(size[1:]) else 2
    stem, stride = ((1, side, side), (1, 2, 2)) if sections else ((2, 2, 2), (2, 2, 2))
    kernels = ((3, 3, 3), (1, 3, 3) if sections else (3, 3, 3))
    arguments = UNet3dArguments(outputs, FEATURES, (kernels, kernels), (stride,), stem)
    reach, total = arguments.halo(), arguments.total_stride
    halo = three([min(r, 2 * s) for r, s in zip(reach, total, strict=True)])
    return Geometry(factor, size, arguments, halo, (8, 32, 32) if sections else (16, 16, 16))


@dataclass(frozen=True)
class LearnedGate:
    """Scores coarse cells by a bundle's companion; the same cell always gets the same score.

    Attributes:
        network: Folded, in evaluation mode, on its device, in its precision.
        stride: Of the network; a cell whose shape is no multiple of it is mirrored at its high faces.
        core: Shape of a cell, coarse voxels.
        halo: Coarse voxels that are read around it.
        channels: Outputs of the network that count.
        intensity: (low, high) of the run's normalisation, of the model's own grid.
    """

    network: nn.Module
    stride: Index3
    core: Index3
    halo: Index3
    channels: tuple[int, ...]
    intensity: tuple[float, float]
    device: str
    precision: str
    name: str = "learned"

    def __call__(self, cell: NDArray[np.float32]) -> float:
        """The score in 0-1 of a cell: (core + 2 halo) raw intensities, averaged to the coarse level, float32.

        What is no number counts as 0, as for the model itself; a constant cell scores 0.

        Raises:
            ValueError: when the cell has another shape.
        """
        if cell.shape != tuple(c + 2 * h for c, h in zip(self.core, self.halo, strict=True)):
            raise ValueError(
                f"the gate takes cells of {self.core} with a halo of {self.halo}, got {cell.shape}"
            )
        if not np.isfinite(cell).all():
            cell = np.nan_to_num(cell, nan=0.0, posinf=0.0, neginf=0.0)
        if cell.min() == cell.max():
            return 0.0
        image = pad_to(normalise(cell, *self.intensity), self.stride)
        with torch.inference_mode():
            x = torch.from_numpy(image)[None, None].to(self.device, PRECISIONS[self.precision])
            logits = self.network(x.contiguous(memory_format=torch.channels_last_3d))[0]  # (C, Z, Y, X)
            inner = tuple(slice(h, h + c) for h, c in zip(self.halo, self.core, strict=True))
            return float(logits[(list(self.channels), *inner)].max().float().sigmoid())


def parse_factor(text: str | None) -> Index3 | None:
    """``z,y,x`` as whole numbers; None stays None.

    Raises:
        UserError: for anything else, for numbers outside 1-16, and for 1,1,1.
    """
    if text is None:
        return None
    parts = text.split(",")
    values = [int(p) for p in parts if p.strip().isdecimal()]
    if len(parts) != 3 or len(values) != 3 or not all(1 <= v <= 16 for v in values) or max(values) == 1:
        raise UserError(
            f"--factor: three whole numbers z,y,x from 1 to 16, not all 1, for example 1,2,2; got {text}"
        )
    return three(values)


def pad_to(image: NDArray[np.float32], stride: Index3) -> NDArray[np.float32]:
    """``image`` (z, y, x), mirrored at its high faces so that each side is a multiple of ``stride``."""
    pad = [(0, -n % s) for n, s in zip(image.shape, stride, strict=True)]
    return np.ascontiguousarray(np.pad(image, pad, mode="symmetric"))


def learned_gate(
    bundle: Bundle,
    targets: Sequence[Target],
    core: Index3,
    intensity: tuple[float, float],
    device: str = "cpu",
    precision: str = "float32",
    threads: int | None = None,
) -> tuple[Index3, LearnedGate] | None:
    """The bundle's companion as a gate for cells of shape ``core``, and the factor of the level that it looks at.

    Args:
        targets: What the run makes objects of.
        intensity: (low, high) of the run.
        threads: Of this whole process on the CPU; None leaves torch's setting.

    Returns:
        Grid voxels per coarse voxel (z, y, x) and the gate; None when the bundle has no companion, or one that was
        not trained for all the targets and would lose the others.

    Raises:
        UserError: when the companion's file is missing, damaged or of another architecture.
    """
    companion = bundle.card.companion
    if companion is None or not targets or not {t.name for t in targets} <= set(companion.outputs):
        return None
    if threads is not None:
        torch.set_num_threads(threads)
    network = fold_batch_norm(bundle.load_gate()).to(device, PRECISIONS[precision])
    gate = LearnedGate(
        network=network.to(memory_format=torch.channels_last_3d),  # type: ignore[call-overload]
        stride=parse_architecture(companion.architecture.name, companion.architecture.arguments).total_stride,
        core=core,
        halo=companion.halo,
        channels=tuple(companion.outputs.index(t.name) for t in targets),
        intensity=intensity,
        device=device,
        precision=precision,
    )
    return companion.factor, gate


def three(values: Sequence[int]) -> Index3:
    z, y, x = values
    return (z, y, x)
