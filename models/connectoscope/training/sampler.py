"""Patches for training, each drawn from (seed, step, place in the batch) alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from connectoscope.blockwise.tile import finite, told_of_not_finite
from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.training.augment import MARGIN, intensity, orient, turn, warp
from connectoscope.training.checkpoint import digest
from connectoscope.training.instances import INSTANCES, UNKNOWN, can_derive, derive
from connectoscope.training.labels import (
    boundaries,
    check_voxel_size,
    check_whole_numbers,
    plane_grid,
    resampled_mask,
)
from connectoscope.training.recipe import Recipe, TrainingVolume, check_planes, find_data, open_image
from connectoscope.volumes import Volume, open_volume
from connectoscope.volumes.geometry import Box, sizes_text
from connectoscope.volumes.labels import without_nothing


@dataclass(frozen=True)
class LabelledVolume:
    """A whole volume in memory.

    Attributes:
        image: ``(Z, Y, X)`` float32, normalised.
        labels: ``(C, Z, Y, X)`` uint8, 0, 1 or ``UNKNOWN``, channels in the recipe's order of outputs.
        split: The recipe's entry.
        instances: ``(Z, Y, X)`` int32, where the labels are derived from them.
        warnings: One line each, for people: what was assumed of the image.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    split: TrainingVolume
    instances: NDArray[np.int32] | None = None
    warnings: tuple[str, ...] = ()

    @cached_property
    def signature(self) -> dict[str, str]:
        """What tells image and labels from changed ones."""
        ids = () if self.instances is None else (self.instances,)
        return {
            f"the image of {self.split.name}": digest(self.image),
            f"the labels of {self.split.name}": digest(self.labels, *ids),
        }


def load_volume(recipe: Recipe, entry: TrainingVolume) -> LabelledVolume:
    """Read a recipe's volume and its labels, with the pixels that the recipe wants.

    Raises:
        UserError: when a file is missing, planes are, an output has no label, or a label cannot be of this image.
    """
    raw = open_image(entry)
    check_planes(recipe, entry, raw.shape[0])
    grid = plane_grid(raw, recipe.inputs.voxel_size)
    low, high = intensity_range(grid.read, grid.shape, *recipe.inputs.percentiles)
    pixels, bad = finite(grid.read(Box.of(grid.shape)))
    image = normalise(pixels, low, high)
    told = tuple(f"{entry.name}: {text}" for text in raw.warnings)
    if bad:
        told += (f"{entry.name}: {told_of_not_finite(bad)}",)
    names = [output.name for output in recipe.outputs]
    if INSTANCES in entry.labels and all(can_derive(name) for name in names):
        if grid.shape != raw.shape:
            raise UserError(
                f"recipe {recipe.name}: instances of {entry.name} are learned at the volume's own voxel size only"
            )
        ids = np.unique(_label(entry.labels[INSTANCES], entry, raw), return_inverse=True)
        instances = (ids[1].reshape(raw.shape) + (ids[0][0] != 0)).astype(np.int32)  # 0 stays 0
        return LabelledVolume(image, derive(instances, names), entry, instances, told)
    labels = []
    for name in names:
        derived = name in entry.boundaries_of
        file = (entry.boundaries_of if derived else entry.labels).get(name)
        if file is None:
            raise UserError(f"recipe {recipe.name}: volume {entry.name} has no label for the output '{name}'")
        values = _label(file, entry, raw)
        labels.append(resampled_mask(boundaries(values) if derived else values > 0, grid))
    return LabelledVolume(image, np.stack(labels).astype(np.uint8), entry, warnings=told)


def _label(file: str, entry: TrainingVolume, raw: Volume) -> NDArray[Any]:
    label = open_volume(find_data(file, entry.published))
    if len(label.channels) > 1:
        raise UserError(f"label {label.source} has {len(label.channels)} channels; labels have one")
    if label.shape != raw.shape:
        raise UserError(
            f"label {label.source} has shape {label.shape}, its image {raw.shape}; they must agree"
        )
    check_voxel_size(label, raw)
    check_whole_numbers(label.levels[0].dtype, f"labels {label.source}")
    return without_nothing(label.read(Box.of(label.shape)))[0]


class Sampler:
    """Draws batches of augmented patches from the training planes."""

    def __init__(self, recipe: Recipe, volumes: list[LabelledVolume]) -> None:
        self.recipe = recipe
        self.volumes = volumes
        depth, rows, columns = recipe.sampling.patch
        sizes = recipe.inputs.voxel_size
        self.isotropic = max(sizes) < 1.25 * min(sizes)
        if max(sizes[1:]) > 1.25 * min(sizes[1:]):  # patches are turned in y and x
            raise UserError(
                f"recipe {recipe.name}: voxels must be as long along y as along x, not {sizes_text(sizes)} nm; "
                "write such a voxel_size, and volumes are resampled to it"
            )
        for volume in volumes:
            first, last = volume.split.train
            if last - first < depth:
                raise UserError(
                    f"recipe {recipe.name}: patches of {depth} planes do not fit "
                    f"the {last - first} training planes of {volume.split.name}"
                )
            height, width = volume.image.shape[1:]
            # What is warped may be smaller: it is mirrored at its ends.
            cut = recipe.sampling.plain or volume.instances is not None
            if cut and (height < rows or width < columns):
                raise UserError(
                    f"recipe {recipe.name}: patches of {rows} × {columns} pixels do not fit "
                    f"the {height} × {width} of {volume.split.name}; make sampling.patch smaller"
                )
        turned = recipe.sampling.plain or any(volume.instances is not None for volume in volumes)
        if turned and rows != columns:
            raise UserError(
                f"recipe {recipe.name}: sampling.plain and instances need patches that are square in y and x"
            )
        names = [output.name for output in recipe.outputs]
        unknown = set(recipe.sampling.centred) - set(names)
        if unknown:
            raise UserError(
                f"recipe {recipe.name}: sampling.centred names {sorted(unknown)}, outputs are {names}"
            )
        self.centres = {
            (v, name): np.argwhere(volume.labels[names.index(name), slice(*volume.split.train)] == 1)
            for v, volume in enumerate(volumes)
            for name in recipe.sampling.centred
        }  # voxels of each label, z relative to the first training plane

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """image ``(B, 1, Z, Y, X)`` and labels ``(B, C, Z, Y, X)`` of an update, float32; -1 is unknown."""
        pairs = [self.patch(step, place) for place in range(self.recipe.sampling.batch)]
        return torch.stack([i for i, _ in pairs])[:, None], torch.stack([t for _, t in pairs])

    def patch(self, step: int, place: int) -> tuple[Tensor, Tensor]:
        """image ``(Z, Y, X)`` and labels ``(C, Z, Y, X)``."""
        digest = hashlib.sha256(f"{self.recipe.seed}/{step}/{place}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        chance = torch.Generator().manual_seed(int.from_bytes(digest[8:15], "little"))
        image, labels, derived = self._cut(generator)
        if derived:  # an affinity has a direction, and ids cannot be interpolated
            image, ids = orient(image, labels[0], generator, self.isotropic)
            names = [output.name for output in self.recipe.outputs]
            targets = torch.from_numpy(derive(ids.numpy(), names))
            return intensity(image, generator), torch.where(targets == UNKNOWN, -1.0, targets.float())
        sampling = self.recipe.sampling
        plain = step >= sampling.plain_from and float(torch.rand((), generator=chance)) < sampling.plain
        image, labels = (turn if plain else warp)(image, labels, sampling.patch[1:], generator)
        return intensity(image, generator), labels

    def _cut(self, generator: Generator) -> tuple[Tensor, Tensor, bool]:
        """Image ``(Z, Y, X)``, labels ``(C, Z, Y, X)`` or instances ``(1, Z, Y, X)``, and whether it is the latter."""
        draw = float(torch.rand((), generator=generator))
        v = int(torch.randint(len(self.volumes), (), generator=generator))
        volume = self.volumes[v]
        first, last = volume.split.train
        depth, rows, columns = self.recipe.sampling.patch
        derived = volume.instances is not None
        margin = 1.0 if derived else MARGIN
        size = np.array([depth, int(rows * margin), int(columns * margin)])
        shape = np.array([last - first, *volume.image.shape[1:]])
        size = np.minimum(size, shape)
        start = np.array([int(torch.randint(int(n) + 1, (), generator=generator)) for n in shape - size])
        for name, share in self.recipe.sampling.centred.items():
            draw -= share
            if draw < 0:
                centres = self.centres[v, name]
                if len(centres):
                    centre = centres[int(torch.randint(len(centres), (), generator=generator))]
                    jitter = [
                        int(torch.randint(-int(n) // 8, int(n) // 8 + 1, (), generator=generator))
                        for n in size
                    ]
                    start = np.clip(centre + jitter - size // 2, 0, shape - size)
                break
        z, y, x = (int(s) for s in start)
        where = (
            slice(first + z, first + z + int(size[0])),
            slice(y, y + int(size[1])),
            slice(x, x + int(size[2])),
        )
        image = torch.from_numpy(np.ascontiguousarray(volume.image[where]))
        if volume.instances is not None:
            return image, torch.from_numpy(volume.instances[where].copy())[None], True
        labels = torch.from_numpy(np.ascontiguousarray(volume.labels[(slice(None), *where)])).float()
        return image, labels, False
