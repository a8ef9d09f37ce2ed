"""Score a result against a truth: both on the truth's grid, slab by slab, counts first and figures of them at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.evaluation.mapping import GridMap, map_grids
from connectoscope.evaluation.objects import match_objects
from connectoscope.evaluation.partitions import Contingency, adapted_rand_error, variation_of_information
from connectoscope.evaluation.voxels import histograms, precision_recall
from connectoscope.segmentation.components import connected
from connectoscope.segmentation.targets import output_of, shown
from connectoscope.volumes import Volume, open_volume
from connectoscope.volumes.geometry import Box, parse_box
from connectoscope.volumes.labels import without_nothing
from connectoscope.volumes.ome_zarr_write import KEY
from connectoscope.volumes.stores import Location, is_url

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.evaluate import Evaluate

SLAB = 32 * 2**20  # voxels read at once


def score_volumes(parameters: Evaluate, context: Context) -> dict[str, Any]:
    """``box`` (the part that was scored, truth voxels), and of the task's keys those that apply.

    Raises:
        UserError: result and truth cannot be compared, or are not what they must be.
    """
    truth = _open_truth(parameters)
    result = _open_result(parameters.result, parameters.target)
    for volume in (result.volume, truth):
        for text in volume.warnings:
            if "voxel size" not in text:  # the grids speak of that
                context.warn(f"{volume.name}: {text.replace(' (choose with --channel)', '')}")
    grid, warning = map_grids(result.volume, truth)
    if warning:
        context.warn(warning)
    box = Box.of(truth.shape) if parameters.box is None else parse_box(parameters.box)
    if not Box.of(truth.shape).contains(box):
        raise UserError(f"box {box} is outside of the truth, whose shape is {truth.shape}")
    common = grid.common(box)
    if common.size == 0:
        raise UserError(
            f"{result.volume.name} and {truth.name} do not overlap; check voxel size and offset (connectoscope info)"
        )
    if common != box:
        context.warn(f"scored the common part, {common} in truth voxels")

    true = _read_truth(truth, common, context)
    binary = _is_mask(np.unique(true))
    if not binary:
        _check_labels(true, truth.name)
        if not result.instances:  # the inside of a neuron is no membrane
            result = result.without_probability(truth)
    counts = _count(result, grid, true, common, binary, context)
    return {"box": str(common)} | counts.scores(parameters.matching)


@dataclass(frozen=True)
class _Result:
    """Probabilities (0 to 255) and labels of one target, or one of them.

    Attributes:
        threshold: Of the probabilities, that made the labels.
        instances: Whether the target is one of objects.
        numbered: Whether the labels are ours, in which 1 is an object.
    """

    probability: Volume | None
    labels: Volume | None
    threshold: int | None = None
    instances: bool = True
    numbered: bool = False

    @property
    def volume(self) -> Volume:
        """One of them, for their common grid."""
        volume = self.labels if self.probability is None else self.probability
        if volume is None:
            raise UserError("the result holds nothing to score")
        return volume

    def without_probability(self, truth: Volume) -> _Result:
        if self.labels is None:
            raise UserError(
                f"{truth.name} holds objects, and what is scored is not made of objects: give a mask as truth, "
                "or another --target"
            )
        return _Result(None, self.labels, numbered=self.numbered)


def _open_result(path: str, target: str | None) -> _Result:
    root, facts = Location.of(path), _facts(path)
    if "outputs" not in facts:  # not made by a segmentation: a label volume as it is
        volume = open_volume(path)
        if volume.dtype.kind not in "iu":
            raise UserError(
                f"{path} holds {volume.dtype} values, not labels; score a segmentation or an integer label volume"
            )
        return _Result(None, volume, numbered="objects" in facts)
    outputs = {str(o["name"]): o for o in facts["outputs"]}
    name = None if target is None else output_of(target)
    if name is None and len(outputs) == 1:
        name = next(iter(outputs))
    labels = None if name is None else root.child(f"labels/{name}")
    has_labels = labels is not None and labels.read_json("zarr.json") is not None
    if name is None or labels is None or not (name in outputs or has_labels):
        parts = root.child("labels").read_json("zarr.json")
        made = parts[0].get("attributes", {}).get("ome", {}).get("labels", ()) if parts is not None else ()
        there = ", ".join(dict.fromkeys(map(shown, (*outputs, *made))))
        if target is None:
            raise UserError(f"{path} holds {there}; say which one with --target")
        raise UserError(f"{path} has no target '{target}'; it has {there}")
    if facts.get("finished") is False:
        raise UserError(f"{path} is unfinished: resume the run that makes it, then evaluate")
    return _Result(
        open_volume(path, channel=name) if name in outputs else None,
        open_volume(labels.text) if has_labels else None,
        int(outputs[name]["threshold"]) if name in outputs else None,
        name not in outputs or bool(outputs[name].get("instances")),
        numbered=True,
    )


def _facts(path: str) -> dict[str, Any]:
    """What a result of ours says of itself; empty for others."""
    found = Location.of(path).read_json("zarr.json") if is_url(path) or Path(path).is_dir() else None
    attributes = found[0].get("attributes") if found is not None else None
    return (attributes.get(KEY) or {}) if isinstance(attributes, dict) else {}


def _open_truth(parameters: Evaluate) -> Volume:
    if outputs := _facts(parameters.truth).get("outputs"):
        raise UserError(
            f"{parameters.truth} is a segmentation: the truth comes second (evaluate RESULT TRUTH); to take a "
            f"segmentation as truth, name one of its labels, for example {parameters.truth}/labels/{outputs[0]['name']}"
        )
    return open_volume(parameters.truth, voxel_size=parameters.voxel_size)


def _read_truth(truth: Volume, box: Box, context: Context) -> NDArray[Any]:
    """Whole numbers, 0 where there is nothing."""
    voxels = np.asarray(truth.read(box))
    if voxels.dtype.kind == "f" and not (np.isfinite(voxels) & (voxels == np.floor(voxels))).all():
        raise UserError(
            f"{truth.name} holds {voxels.dtype} values that are not whole numbers; a truth is a mask or labels"
        )
    voxels, nothing = without_nothing(voxels)
    if nothing:
        context.warn(
            f"{truth.name}: {nothing} voxels hold -1 or the like, or the highest uint64 (as CREMI marks what is not an "
            "object): they count as 0"
        )
    return voxels


def _is_mask(values: NDArray[Any]) -> bool:
    """Whether a volume of these values tells only where something is; another single number is that of an object."""
    most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 255
    return set(values.tolist()) - {0} in (set(), {1}, {255}, {most})


def _check_labels(voxels: NDArray[Any], name: str) -> None:
    """Objects are larger than a voxel, so neighbours mostly have one value; in an image they hardly ever do.

    Raises:
        UserError: it looks like an image.
    """
    if voxels.shape[2] > 1 and (voxels[:, :, 1:] == voxels[:, :, :-1]).mean() < 1 / 3:
        raise UserError(
            f"{name} looks like an image, not like labels: most neighbouring voxels differ (evaluate RESULT TRUTH)"
        )


@dataclass
class _Counts:
    """What is added up over slabs.

    Attributes:
        inside, outside: Voxels of each probability, within the truth's foreground and without.
        confusion: True positives, false positives and false negatives of the foreground as called.
        objects, parts: Voxels of each pair of labels: with the truth's objects, and with its partition.
    """

    inside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    outside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    objects: Contingency | None = None
    parts: Contingency | None = None

    def scores(self, matching: str) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        if self.inside.sum() > 0:
            curve = precision_recall(self.inside, self.outside)
            best, at = curve.best()
            scores |= {"average_precision": curve.average_precision, "best_f1": best, "best_threshold": at}
        tp, fp, fn = (int(v) for v in self.confusion)
        if tp + fp + fn:
            scores |= {
                "f1": 2 * tp / (2 * tp + fp + fn),
                "precision": tp / (tp + fp) if tp + fp else None,
                "recall": tp / (tp + fn) if tp + fn else None,
            }
        if self.objects is not None:
            m = match_objects(self.objects, 0.3 if matching == "iou0.3" else 0.0)
            scores |= {"object_f1": m.f1, "object_tp": m.tp, "object_fp": m.fp, "object_fn": m.fn}
            scores |= {"matching": matching}
        if self.parts is not None:
            known = self.parts.where(self.parts.truth > 0)
            if len(known.voxels):
                split, merge = variation_of_information(known)
                scores |= {"vi_split": split, "vi_merge": merge, "vi": split + merge}
                scores |= {"arand": adapted_rand_error(known)}
        return scores


def _count(
    result: _Result, grid: GridMap, true: NDArray[Any], common: Box, binary: bool, context: Context
) -> _Counts:
    """Over ``common``, whose truth is ``true``: a mask where it is ``binary``, else instances."""
    objects = connected(true > 0) if binary else true
    parts = None if binary else _partition(true)
    pieces = _pieces(result, grid, common, context)
    counts = _Counts()
    for planes, slab in _slabs(common, context):
        mask = true[planes] > 0
        called: NDArray[np.bool_] | None = None
        if result.probability is not None:
            p = grid.read(result.probability, slab, linear=True)
            inside, outside = histograms(p, mask)
            counts.inside += inside
            counts.outside += outside
            called = p >= result.threshold if result.threshold is not None and binary else None
        if result.labels is not None:
            found = grid.read(result.labels, slab, linear=False) if pieces is None else pieces[planes]
            if result.probability is None and planes.start == 0:
                _check_labels(found, result.labels.name)
            called = found > 0
            counts.objects = _added(counts.objects, Contingency.of(found, objects[planes]))
            if parts is not None:
                counts.parts = _added(counts.parts, Contingency.of(found, parts[planes]))
        if called is not None:
            counts.confusion += [(called & mask).sum(), (called & ~mask).sum(), (~called & mask).sum()]
    return counts


def _pieces(result: _Result, grid: GridMap, common: Box, context: Context) -> NDArray[Any] | None:
    """The objects of a result that is a mask, found as the truth's are; None where it numbers them itself."""
    if result.labels is None or result.numbered:
        return None
    mask, values = np.zeros(common.shape, np.bool_), np.zeros(1, result.labels.dtype)
    for planes, slab in _slabs(common, context):
        found = grid.read(result.labels, slab, linear=False)
        values = np.union1d(values, np.unique(found))
        if not _is_mask(values):
            return None
        mask[planes] = found > 0
    return connected(mask)


def _slabs(common: Box, context: Context) -> Iterator[tuple[slice, Box]]:
    """Planes of ``common``, and the box of them; tells the progress."""
    depth, rows, columns = common.shape
    step = max(1, SLAB // (rows * columns))
    for z in range(0, depth, step):
        context.check_cancelled()
        context.progress(z, depth, "compare")
        planes = slice(z, min(z + step, depth))
        start, stop = common.start[0] + planes.start, common.start[0] + planes.stop
        yield planes, Box((start, *common.start[1:]), (stop, *common.stop[1:]))


def _added(before: Contingency | None, more: Contingency) -> Contingency:
    return more if before is None else before + more


def _partition(truth: NDArray[Any]) -> NDArray[Any]:
    """Truth segments as connected pieces of the crop; pieces under 200 voxels become 0, which is ignored."""
    pieces: NDArray[Any] = cc3d.connected_components(truth, connectivity=26)
    small = np.flatnonzero(np.bincount(pieces.ravel()) < 200)
    pieces[np.isin(pieces, small)] = 0
    return pieces
