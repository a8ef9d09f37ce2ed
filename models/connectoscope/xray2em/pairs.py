"""Pairs of X-ray and EM for training and scoring, simulated from EM with the surrogate.

The EM has intensities 0-1: the percentiles that the recipe names, of the whole volume, become 0 and 1; what is beyond
them is kept. The X-ray image is averaged over ``scale``³ EM voxels and normalised as a volume that a user opens is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from connectoscope.blockwise.tile import finite, told_of_not_finite
from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.training.checkpoint import digest
from connectoscope.training.recipe import Recipe, TrainingVolume, Xray, check_planes, open_image
from connectoscope.volumes.geometry import Box, sizes_text
from connectoscope.xray2em import surrogate
from connectoscope.xray2em.forward import stain_density
from connectoscope.xray2em.surrogate import Surrogate

Real = NDArray[np.float32]

FIELD = 48  # X-ray voxels a side of the field of view that a patch is cut from: halos are wider than patches
STAIN = (0.5, 99.5)  # percentiles of the EM that become stain density 1 and 0
AROUND = 24  # X-ray planes beyond a scored part that the network sees


@dataclass(frozen=True)
class EmVolume:
    """A whole volume in memory.

    Attributes:
        pixels: ``(Z, Y, X)`` as stored; what is not finite is 0.
        black, white: Intensities that become 0 and 1.
        dense, empty: Intensities that become stain density 1 and 0.
        voxel_nm: Of the EM.
        split: The recipe's entry.
    """

    pixels: NDArray[np.generic]
    black: float
    white: float
    dense: float
    empty: float
    voxel_nm: float
    split: TrainingVolume
    warnings: tuple[str, ...] = ()

    @cached_property
    def signature(self) -> dict[str, str]:
        """What tells it from a changed one."""
        return {f"the image of {self.split.name}": digest(self.pixels)}

    def em(self, where: tuple[slice, ...]) -> Real:
        """Intensities 0-1 (and somewhat beyond) of a part."""
        return (self.pixels[where].astype(np.float32) - np.float32(self.black)) / np.float32(
            self.white - self.black
        )


@dataclass(frozen=True)
class Pair:
    """A simulated scan of a part of a volume, normalised, and its EM, of which the planes ``scored`` count."""

    xray: Real
    em: Real
    scored: slice


def load_em(recipe: Recipe, entry: TrainingVolume, scale: int) -> EmVolume:
    """Read a recipe's volume.

    Raises:
        UserError: the file is missing, planes are, or its voxels are not those that the network writes.
    """
    volume = open_image(entry)
    check_planes(recipe, entry, volume.shape[0], empty=("choose", "report"))
    sizes, wanted = volume.voxel_size_nm(), recipe.inputs.voxel_size[0] / scale
    if any(abs(s / wanted - 1) > 0.05 for s in sizes) or len(set(recipe.inputs.voxel_size)) != 1:
        shown = sizes_text(sizes)
        raise UserError(
            f"recipe {recipe.name}: {entry.name} has voxels of {shown} nm; the network writes isotropic ones of {wanted:g} nm"
        )
    black, white = intensity_range(volume.read, volume.shape, *recipe.inputs.percentiles)
    dense, empty = intensity_range(volume.read, volume.shape, *STAIN)
    pixels, bad = finite(volume.read(Box.of(volume.shape)))
    told = tuple(f"{entry.name}: {text}" for text in volume.warnings)
    if bad:
        told += (f"{entry.name}: {told_of_not_finite(bad)}",)
    return EmVolume(pixels, black, white, dense, empty, sizes[0], entry, told)


def drawn(xray: Xray, voxel_nm: float, generator: np.random.Generator) -> Surrogate:
    """One of the scans that the recipe allows."""
    low, high = np.log10(xray.counts)
    like = surrogate.at(
        voxel_nm, counts=10 ** generator.uniform(low, high), rings=generator.uniform(*xray.rings)
    )
    return replace(
        like,
        resolution_nm=generator.uniform(*xray.resolution),
        halo_nm=generator.uniform(*xray.halo),
        slope=generator.uniform(2, 4),
        drift=like.drift * 2 ** generator.uniform(-1, 1),
    )


def main_scan(xray: Xray, voxel_nm: float) -> Surrogate:
    """The scan at which models are scored."""
    resolution, counts = xray.scored
    return replace(surrogate.at(voxel_nm, counts=counts, rings=0.01), resolution_nm=resolution)


def scan(volume: EmVolume, where: tuple[slice, ...], scale: int, like: Surrogate, seed: int) -> Real:
    """X-ray image, dark where the stain is dense, of a part whose lengths are multiples of ``scale``."""
    pixels = volume.pixels[where]
    z, y, x = (n // scale for n in pixels.shape)
    coarse = pixels.reshape(z, scale, y, scale, x, scale).mean((1, 3, 5), dtype=np.float32)
    density = stain_density(coarse, volume.dense, volume.empty)
    return -surrogate.simulate(density, volume.voxel_nm * scale, like, seed)


class Batches:
    """Batches of patches for every member of an ensemble, each patch drawn from seed, step and place alone."""

    def __init__(self, recipe: Recipe, members: int) -> None:
        self.recipe, self.members = recipe, members

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """X-ray ``(members * B, 1, Z, Y, X)`` and EM ``(members * B, 1, scale * Z, ...)``, a member's B in a row."""
        pairs = [self.patch(step, place) for place in range(self.members * self.recipe.sampling.batch)]
        xray, em = (np.stack([pair[k] for pair in pairs])[:, None] for k in (0, 1))
        return torch.from_numpy(xray), torch.from_numpy(em)

    def patch(self, step: int, place: int) -> tuple[Real, Real]:
        """X-ray ``(Z, Y, X)`` and EM ``(scale * Z, ...)``."""
        raise NotImplementedError

    def generator(self, step: int, place: int) -> np.random.Generator:
        """Of one patch."""
        digest = hashlib.sha256(f"{self.recipe.seed}/{step}/{place}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))

    def shaken(self, low: float, high: float, generator: np.random.Generator) -> tuple[float, float]:
        """About ``low`` and ``high``: percentiles of a part are not those of a volume."""
        spread = (high - low) * np.exp(generator.normal(0, 0.1))
        middle = (low + high) / 2 + spread * generator.normal(0, 0.05)
        return float(middle - spread / 2), float(middle + spread / 2)

    def turned(self, xray: Real, em: Real, generator: np.random.Generator) -> tuple[Real, Real]:
        """Both in one of the 48 orientations where patches are cubes, else in one of 8."""
        cube = len(set(self.recipe.sampling.patch)) == 1
        axes = generator.permutation(3) if cube else np.arange(3)
        flips = tuple(int(axis) for axis in range(3) if generator.random() < 0.5)
        one, other = (np.ascontiguousarray(np.flip(a.transpose(axes), flips)) for a in (xray, em))
        return one, other


class PairSampler(Batches):
    """Draws patches of simulated scans."""

    def __init__(self, recipe: Recipe, xray: Xray, volumes: list[EmVolume], members: int, scale: int) -> None:
        super().__init__(recipe, members)
        self.xray, self.volumes, self.scale = xray, volumes, scale
        for volume in volumes:
            first, last = volume.split.train
            room = (last - first, *volume.pixels.shape[1:])
            if any(n < p * scale for n, p in zip(room, recipe.sampling.patch, strict=True)):
                raise UserError(
                    f"recipe {recipe.name}: patches of {recipe.sampling.patch} X-ray voxels do not fit "
                    f"the training part of {volume.split.name}, {room} EM voxels"
                )

    def patch(self, step: int, place: int) -> tuple[Real, Real]:
        """X-ray ``(Z, Y, X)`` and EM, turned to one of the 48 orientations where the patch is a cube."""
        generator = self.generator(step, place)
        s, patch = self.scale, self.recipe.sampling.patch
        room = [v.split.train[1] - v.split.train[0] for v in self.volumes]
        sizes = np.array(
            [n * v.pixels.shape[1] * v.pixels.shape[2] for n, v in zip(room, self.volumes, strict=True)]
        )
        volume = self.volumes[generator.choice(len(sizes), p=sizes / sizes.sum())]
        first, last = volume.split.train
        bounds = (last - first, *volume.pixels.shape[1:])
        field = [min(max(FIELD, p), n // s) for p, n in zip(patch, bounds, strict=True)]
        start = [int(generator.integers(n - f * s + 1)) for n, f in zip(bounds, field, strict=True)]
        start[0] += first
        where = tuple(slice(a, a + f * s) for a, f in zip(start, field, strict=True))
        like = drawn(self.xray, volume.voxel_nm * s, generator)
        image = scan(volume, where, s, like, int(generator.integers(2**31)))
        low, high = np.percentile(image, self.recipe.inputs.percentiles)
        low_high = self.shaken(low, high, generator)
        cut = [int(generator.integers(f - p + 1)) for f, p in zip(field, patch, strict=True)]
        coarse = image[tuple(slice(c, c + p) for c, p in zip(cut, patch, strict=True))]
        xray = normalise(coarse, *low_high)
        em = volume.em(
            tuple(slice(a + c * s, a + (c + p) * s) for a, c, p in zip(start, cut, patch, strict=True))
        )
        return self.turned(xray, em, generator)


def planes_around(volume: EmVolume, part: str, scale: int) -> tuple[slice, slice] | None:
    """Planes of a part (``choose``, ``report``) and its surroundings, whole X-ray voxels, and which of these count.

    None where none do: the part is empty, or at the volume's end, where planes are left that fill no X-ray voxel.
    """
    first, last = getattr(volume.split, part)
    low = max(first - AROUND * scale, 0)
    high = min(last + AROUND * scale, len(volume.pixels))
    high -= (high - low) % scale
    last = min(last, high)
    return (slice(low, high), slice(first - low, last - low)) if first < last else None


def held_out(
    recipe: Recipe,
    volume: EmVolume,
    part: str,
    scale: int,
    like: Surrogate,
    seed: int,
    side: int | None = None,
) -> Pair | None:
    """A scan of a part (``choose``, ``report``) of a volume and its surroundings; None where no plane counts.

    Args:
        side: Rows and columns, in X-ray voxels, of the middle that is taken; None: all.
    """
    found = planes_around(volume, part, scale)
    if found is None:
        return None
    planes, scored = found
    spans = [(planes.start, planes.stop)]
    for n in volume.pixels.shape[1:]:
        length = n // scale if side is None else min(side, n // scale)
        start = (n - length * scale) // 2
        spans.append((start, start + length * scale))
    where = tuple(slice(*span) for span in spans)
    image = scan(volume, where, scale, like, seed)
    low_high = intensity_range(
        lambda box: image[box.slices], Box.of(image.shape).shape, *recipe.inputs.percentiles
    )
    return Pair(normalise(image, *low_high), volume.em(where), scored)
