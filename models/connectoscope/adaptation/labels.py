"""Labels of patches: read, and refused in one line where they cannot be what was meant.

Labels are whole numbers; 0 is background, everything else the object, and every voxel of a patch counts. Of instances 0 is
the membrane between them, as in the labels that ``adapt suggest`` writes. They are either
one volume in the frame of the image (or a part of it whose offset is stated), or a folder with one file a patch, ID.tif.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectoscope.adaptation.patches import Patch
from connectoscope.errors import UserError
from connectoscope.segmentation.targets import output_of, shown
from connectoscope.training.labels import (
    boundaries,
    check_classes,
    check_voxel_size,
    check_whole_numbers,
)
from connectoscope.volumes import Volume, open_volume
from connectoscope.volumes.geometry import Box, convert_length, sizes_text
from connectoscope.volumes.labels import without_nothing
from connectoscope.zoo import Card

REACH = 2  # voxels beyond a patch that the boundaries in it depend on

Mask = NDArray[np.bool_]


def output_index(card: Card, target: str | None) -> int:
    """Which output of a model labels are of: the one named, else membranes, else the only one.

    Raises:
        UserError: there is none of that name, or it has to be said which.
    """
    names = [o.name for o in card.outputs]
    wanted = None if target is None else output_of(target)
    if wanted is None:
        wanted = "boundary" if "boundary" in names or len(names) > 1 else names[0]
    if wanted not in names:
        there = ", ".join(map(shown, names))
        raise UserError(
            f"model '{card.name}' makes {there}, not {shown(wanted)}; choose another model or --target"
        )
    return names.index(wanted)


def read_labels(path: Path, patches: Sequence[Patch], volume: Volume, *, instances: bool) -> list[Mask]:
    """The object of each patch, bool (z, y, x) on its level-0 voxels.

    Args:
        path: A folder with a file for each patch, or a volume.
        instances: Labels are instances, and the membranes between them are what is learned.

    Raises:
        UserError: labels are missing for a patch, have another frame or voxel size, are no whole numbers, or of one class.
    """
    if not path.exists():
        raise UserError(f"labels {path} do not exist; check the name")
    is_volume = path.is_file() or any(
        (path / name).exists() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray")
    )
    arrays = (
        _from_volume(path, patches, volume, REACH if instances else 0)
        if is_volume
        else _from_folder(path, patches, volume)
    )
    masks = []
    for patch, (array, inside) in zip(patches, arrays, strict=True):
        check_whole_numbers(array.dtype, f"labels {path} of {patch.id}")
        masks.append(mask_of(array, instances=instances)[inside.slices])
    share = float(np.concatenate([m.ravel() for m in masks]).mean())
    check_classes(share, f"labels {path}", f"the {len(masks)} patches", instances=instances)
    return masks


def mask_of(labels: NDArray[np.generic], *, instances: bool) -> Mask:
    """What labels, (z, y, x) whole numbers, say is the object; of instances the membranes between them."""
    known, _ = without_nothing(labels)  # what nobody knows is no membrane, and counts as one more cell
    return boundaries(known, wall=labels == 0) if instances else known.astype(bool)


def _from_folder(
    folder: Path, patches: Sequence[Patch], volume: Volume
) -> list[tuple[NDArray[np.generic], Box]]:
    wanted = {patch.id for patch in patches}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0]
        if name not in wanted or path.suffix == ".part":
            continue
        if name in found:
            raise UserError(
                f"{folder} has two files for patch {name}, {found[name].name} and {path.name}: move one of them away"
            )
        found[name] = path
    missing = [p.id for p in patches if p.id not in found]
    if missing:
        raise UserError(
            f"{folder} has labels for {len(patches) - len(missing)} of {len(patches)} patches; "
            f"missing: {', '.join(missing)} (a file {missing[0]}.tif)"
        )
    arrays = []
    for patch in patches:
        labels = open_volume(found[patch.id])
        shape = patch.voxels.shape
        if labels.shape != shape:
            raise UserError(
                f"labels {found[patch.id]} are {sizes_text(labels.shape)} voxels, patch {patch.id} is {sizes_text(shape)}"
            )
        check_voxel_size(labels, volume)
        arrays.append((labels.read(Box.of(shape)), Box.of(shape)))
    return arrays


def _from_volume(
    path: Path, patches: Sequence[Patch], volume: Volume, reach: int
) -> list[tuple[NDArray[np.generic], Box]]:
    labels = open_volume(path)
    offset = _offset(labels, volume)
    whole = Box.of(labels.shape)
    boxes = [p.voxels.shifted(offset) for p in patches]
    inside = [whole.contains(box) for box in boxes]
    if not all(inside):
        if not any(whole.intersection(box).size for box in boxes):
            raise UserError(
                f"labels {path} do not overlap any patch of {volume.name}; check their offset (connectoscope info)"
            )
        missing = ", ".join(p.id for p, there in zip(patches, inside, strict=True) if not there)
        raise UserError(f"labels {path} cover {sum(inside)} of {len(boxes)} patches; missing: {missing}")
    arrays = []
    for box in boxes:
        wide = box.grown((reach, reach, reach)).intersection(whole)
        arrays.append((labels.read(wide), box.within(wide)))
    return arrays


def _offset(labels: Volume, volume: Volume) -> tuple[int, int, int]:
    """What is added to voxel indices of the volume to get those of the labels."""
    check_voxel_size(labels, volume)
    if labels.unit is None or volume.unit is None:
        if labels.shape != volume.shape:
            raise UserError(
                f"labels {labels.name} state no voxel size and are {sizes_text(labels.shape)} voxels, {volume.name} is "
                f"{sizes_text(volume.shape)}: save them in the frame of the volume, or a file for each patch in a folder"
            )
        return (0, 0, 0)
    level = volume.levels[0]
    at = convert_length(labels.levels[0].translation, labels.unit, volume.unit)
    shift = [(t - u) / s for t, u, s in zip(level.translation, at, level.scale, strict=True)]
    if any(abs(s - round(s)) > 0.05 for s in shift):
        raise UserError(
            f"labels {labels.name} lie between the voxels of {volume.name} "
            f"(shifted by {', '.join(f'{s:.2f}' for s in shift)} voxels): save them in the frame of the volume"
        )
    return (round(shift[0]), round(shift[1]), round(shift[2]))
