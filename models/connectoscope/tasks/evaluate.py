"""Score a result against a truth: voxels, objects, partitions, points (:mod:`connectoscope.evaluation`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, Parameters, Task, parameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from connectoscope.detection.points import Points
    from connectoscope.evaluation.partitions import Contingency
    from connectoscope.jobs.context import Context
    from connectoscope.volumes import Volume

SLAB = 32 * 2**20  # voxels read at once
KEYS = {
    "average_precision": "Average precision",
    "best_f1": "Best F1 of all thresholds",
    "best_threshold": "Threshold of the best F1",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "object_f1": "Objects: F1",
    "object_tp": "Objects: true positives",
    "object_fp": "Objects: false positives",
    "object_fn": "Objects: false negatives",
    "matching": "Objects: matched by",
    "vi_split": "Variation of information: split (bits)",
    "vi_merge": "Variation of information: merge (bits)",
    "vi": "Variation of information (bits)",
    "arand": "Adapted Rand error",
}  # of the summary, and for people


class Evaluate(Parameters):
    """Compare what was found with what is there."""

    result: str = parameter(
        role="result",
        argument=True,
        help="A segmentation made by 'segment', any label volume, or points: a table or cellfinder's XML.",
    )
    truth: str = parameter(
        role="truth",
        argument=True,
        help="Ground truth: a mask, an instance label volume, or points (CSV with z,y,x and unit; XML).",
    )
    target: str | None = parameter(
        None, help="Output to score, for results with several: synapses, mitochondria, membranes, neurons."
    )
    box: str | None = parameter(None, role="box", help="Only this part, in truth voxels: z0:z1,y0:y1,x0:x1.")
    voxel_size: str | None = parameter(
        None,
        role="voxel_size",
        help="Voxel size of the truth (of points: of both) z,y,x with unit, where the file has none.",
    )
    within: str | None = parameter(
        None,
        label="Maximum distance",
        help="For points: how far a found point may be from a true one, with unit, for example 10um. Default: the cells' "
        "radius.",
    )
    matching: Literal["overlap", "iou0.3"] = parameter(
        "overlap",
        help="When a found object counts as a true one (one to one): with any common voxel, or with an intersection over "
        "union of at least 0.3.",
    )


def run(parameters: Evaluate, context: Context) -> dict[str, Any]:
    """Returns ``KEYS`` and what was scored; None where a key does not apply."""
    summary = _score(parameters, context)
    rows = [[name, _shown(summary[key])] for key, name in KEYS.items() if summary[key] is not None]
    what = " ".join(filter(None, (Path(parameters.result).name, parameters.target)))
    context.result(
        "scores", context.folder, what, text=f"{what} against {Path(parameters.truth).name}", table=rows
    )
    return summary


def _shown(value: float | int | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _score(parameters: Evaluate, context: Context) -> dict[str, Any]:
    if is_points(parameters.result) or is_points(parameters.truth):
        return _score_points(parameters, context)
    if parameters.within is not None:
        raise UserError("--within is for points; labels count as found where they overlap (--matching)")
    import numpy as np

    from connectoscope.evaluation.mapping import map_grids
    from connectoscope.evaluation.objects import match_objects
    from connectoscope.evaluation.partitions import Contingency
    from connectoscope.evaluation.voxels import histograms, precision_recall
    from connectoscope.volumes import open_volume
    from connectoscope.volumes.geometry import Box, parse_box
    from connectoscope.volumes.labels import without_nothing

    if outputs := _facts(parameters.truth).get("outputs"):
        raise UserError(
            f"{parameters.truth} is a segmentation: the truth comes second (evaluate RESULT TRUTH); to take a "
            f"segmentation as truth, name one of its labels, for example {parameters.truth}/labels/{outputs[0]['name']}"
        )
    truth = open_volume(parameters.truth, voxel_size=parameters.voxel_size)
    probability, labels, threshold, instances = _open_result(parameters.result, parameters.target)
    some = probability if probability is not None else labels
    if some is None:
        raise UserError(f"{parameters.result} holds nothing to score")
    for volume in (some, truth):
        for text in volume.warnings:
            if "voxel size" not in text:  # the grids speak of that
                context.warn(f"{volume.name}: {text.replace(' (choose with --channel)', '')}")
    grid, warning = map_grids(some, truth)
    if warning:
        context.warn(warning)
    box = Box.of(truth.shape)
    if parameters.box is not None:
        box = parse_box(parameters.box)
        if not Box.of(truth.shape).contains(box):
            raise UserError(f"box {box} is outside of the truth, whose shape is {truth.shape}")
    common = grid.common(box)
    if common.size == 0:
        raise UserError(
            f"{some.name} and {truth.name} do not overlap; check voxel size and offset (connectoscope info)"
        )
    if common != box:
        context.warn(f"scored the common part, {common} in truth voxels")

    true = np.asarray(truth.read(common))
    if true.dtype.kind == "f" and not (np.isfinite(true) & (true == np.floor(true))).all():
        raise UserError(
            f"{truth.name} holds {true.dtype} values that are not whole numbers; a truth is a mask or labels"
        )
    true, nothing = without_nothing(true)
    if nothing:
        context.warn(
            f"{truth.name}: {nothing} voxels hold -1 or the like, or the highest uint64 (as CREMI marks what is not an object): "
            "they count as 0"
        )
    ids = np.unique(true)
    binary = len(ids[ids != 0]) <= 1
    if not (binary or instances):  # the inside of a neuron is no membrane
        probability = None
        if labels is None:
            raise UserError(
                f"{truth.name} holds objects, and what is scored is not made of objects: give a mask as truth, "
                "or another --target"
            )
    if not binary:
        _check_labels(true, truth.name)
    objects = _components(true > 0) if binary else true
    parts = true if binary else _partition(true)
    inside = np.zeros(256, np.int64)
    outside = np.zeros(256, np.int64)
    object_table: Contingency | None = None
    part_table: Contingency | None = None
    planes = max(1, SLAB // (common.shape[1] * common.shape[2]))
    confusion = np.zeros(3, np.int64)  # tp, fp, fn of the foreground as called
    for z in range(0, common.shape[0], planes):
        context.check_cancelled()
        context.progress(z, common.shape[0], "compare")
        here = slice(z, min(z + planes, common.shape[0]))
        slab = Box(
            (common.start[0] + here.start, *common.start[1:]), (common.start[0] + here.stop, *common.stop[1:])
        )
        mask = true[here] > 0
        called: NDArray[np.bool_] | None = None
        if probability is not None:
            p = grid.read(probability, slab, linear=True)
            a, b = histograms(p, mask)
            inside, outside = inside + a, outside + b
            called = p >= threshold if threshold is not None and binary else None
        if labels is not None:
            found = grid.read(labels, slab, linear=False)
            if probability is None and z == 0:
                _check_labels(found, labels.name)
            called = found > 0
            t = Contingency.of(found, objects[here])
            object_table = t if object_table is None else object_table + t
            if not binary:
                t = Contingency.of(found, parts[here])
                part_table = t if part_table is None else part_table + t
        if called is not None:
            confusion += [(called & mask).sum(), (called & ~mask).sum(), (~called & mask).sum()]

    summary: dict[str, Any] = dict.fromkeys(KEYS)
    if inside.sum() + outside.sum() > 0 and inside.sum() > 0:
        curve = precision_recall(inside, outside)
        best, at = curve.best()
        summary |= {"average_precision": curve.average_precision, "best_f1": best, "best_threshold": at}
    tp, fp, fn = (int(v) for v in confusion)
    if tp + fp + fn:
        summary |= {
            "f1": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / (tp + fp) if tp + fp else None,
            "recall": tp / (tp + fn) if tp + fn else None,
        }
    if object_table is not None:
        m = match_objects(object_table, 0.3 if parameters.matching == "iou0.3" else 0.0)
        summary |= {
            "object_f1": m.f1, "object_tp": m.tp, "object_fp": m.fp, "object_fn": m.fn, "matching": parameters.matching,
        }  # fmt: skip
    if part_table is not None:
        summary |= _partition_scores(part_table)
    return {"task": "evaluate", "target": parameters.target, "box": str(common)} | summary


def is_points(path: str) -> bool:
    return path.lower().endswith((".csv", ".xml"))


def _score_points(parameters: Evaluate, context: Context) -> dict[str, Any]:
    """Points one to one, in nanometres."""
    import numpy as np

    from connectoscope.detection.points import read_points
    from connectoscope.evaluation.points import match_points
    from connectoscope.paths import expanded
    from connectoscope.volumes.geometry import NANOMETRES, parse_box, parse_voxel_size, unit_symbol

    if not (is_points(parameters.result) and is_points(parameters.truth)):
        raise UserError("points are scored against points (.csv, .xml), labels against labels or a mask")
    if parameters.target is not None or parameters.matching != "overlap":
        raise UserError("--target and --matching are for volumes; for points use --within")
    paths = parameters.result, parameters.truth
    tables = [read_points(expanded(path)) for path in paths]
    within, unit = _within(parameters, tables[0])
    in_voxels = [path for path, points in zip(paths, tables, strict=True) if len(points) and not points.unit]
    voxel = np.ones(3)
    if parameters.voxel_size is not None:
        size, its = parse_voxel_size(parameters.voxel_size)
        voxel = np.array(size) * NANOMETRES[its]
    elif in_voxels or parameters.box is not None:
        what = f"{in_voxels[0]} holds voxel indices" if in_voxels else "--box is in voxels of the truth"
        raise UserError(f"{what}: give the voxel size, for example --voxel-size 5,2,2um")
    if len(in_voxels) == 1:
        context.warn(
            f"{in_voxels[0]} holds voxel indices: voxel 0 is taken to lie where the positions of the other table begin"
        )
    places = [p.position * (NANOMETRES[p.unit] if p.unit else voxel) for p in tables]
    if parameters.box is not None:
        box = parse_box(parameters.box)
        voxels = [np.rint(p / voxel) for p in places]
        inside = [((v >= box.start) & (v < box.stop)).all(axis=1) for v in voxels]
        places = [p[kept] for p, kept in zip(places, inside, strict=True)]
    context.check_cancelled()
    found, true = places
    m = match_points(found, true, within * NANOMETRES[unit])
    return {"task": "evaluate", "target": None, "box": parameters.box} | dict.fromkeys(KEYS) | {
        "f1": m.f1, "precision": m.precision, "recall": m.recall,
        "object_f1": m.f1, "object_tp": m.tp, "object_fp": m.fp, "object_fn": m.fn,
        "matching": f"within {within:g} {unit_symbol(unit)}",
    }  # fmt: skip


def _within(parameters: Evaluate, found: Points) -> tuple[float, str]:
    """A length and its unit; of nothing found no pair can come, at any distance."""
    from connectoscope.volumes.geometry import parse_length

    if parameters.within is not None:
        return parse_length(parameters.within)
    if not len(found):
        return 0.0, "nanometer"
    radius = found.radius.max()
    if not (radius > 0 and found.unit):  # or not known
        raise UserError(
            f"{parameters.result} states no radius: give the maximum distance, for example --within 10um"
        )
    return float(radius), found.unit


def _open_result(path: str, target: str | None) -> tuple[Volume | None, Volume | None, int | None, bool]:
    """Probabilities and labels of a target, the threshold that made the labels, and whether it is one of objects."""
    from connectoscope.segmentation.targets import output_of, shown
    from connectoscope.volumes import open_volume
    from connectoscope.volumes.stores import Location

    root, facts = Location.of(path), _facts(path)
    if "outputs" not in facts:  # not made by a segmentation: a label volume as it is
        volume = open_volume(path)
        if volume.dtype.kind not in "iu":
            raise UserError(
                f"{path} holds {volume.dtype} values, not labels; score a segmentation or an integer label volume"
            )
        return None, volume, None, True
    outputs = {str(o["name"]): o for o in facts["outputs"]}
    name = None if target is None else output_of(target)
    if name is None and len(outputs) == 1:
        name = next(iter(outputs))
    labels = None if name is None else root.child(f"labels/{name}")
    has_labels = labels is not None and labels.read_json("zarr.json") is not None
    if name is None or labels is None or not (name in outputs or has_labels):
        there = ", ".join(map(shown, outputs))
        if target is None:
            raise UserError(f"{path} holds {there}; say which one with --target")
        raise UserError(f"{path} has no target '{target}'; it has {there}")
    if facts.get("finished") is False:
        raise UserError(f"{path} is unfinished: resume the run that makes it, then evaluate")
    return (
        open_volume(path, channel=name) if name in outputs else None,
        open_volume(labels.text) if has_labels else None,
        int(outputs[name]["threshold"]) if name in outputs else None,
        name not in outputs or bool(outputs[name].get("instances")),
    )


def _facts(path: str) -> dict[str, Any]:
    """What a result of ours says of itself; empty for others."""
    from connectoscope.volumes.ome_zarr_write import KEY
    from connectoscope.volumes.stores import Location, is_url

    found = Location.of(path).read_json("zarr.json") if is_url(path) or Path(path).is_dir() else None
    attributes = found[0].get("attributes") if found is not None else None
    return (attributes.get(KEY) or {}) if isinstance(attributes, dict) else {}


def _check_labels(voxels: NDArray[Any], name: str) -> None:
    """Objects are larger than a voxel, so neighbours mostly have one value; in an image they hardly ever do.

    Raises:
        UserError: it looks like an image.
    """
    if voxels.shape[2] > 1 and (voxels[:, :, 1:] == voxels[:, :, :-1]).mean() < 1 / 3:
        raise UserError(
            f"{name} looks like an image, not like labels: most neighbouring voxels differ (evaluate RESULT TRUTH)"
        )


def _components(mask: NDArray[np.bool_]) -> NDArray[Any]:
    import cc3d

    components: NDArray[Any] = cc3d.connected_components(mask, connectivity=26)
    return components


def _partition(truth: NDArray[Any]) -> NDArray[Any]:
    """Truth segments as connected pieces of the crop; pieces under 200 voxels become 0, which is ignored."""
    import cc3d
    import numpy as np

    pieces = cc3d.connected_components(truth, connectivity=26)
    small = np.flatnonzero(np.bincount(pieces.ravel()) < 200)
    pieces[np.isin(pieces, small)] = 0
    result: NDArray[Any] = pieces
    return result


def _partition_scores(table: Contingency) -> dict[str, float]:
    from connectoscope.evaluation.partitions import adapted_rand_error, variation_of_information

    known = table.where(table.truth > 0)
    if not len(known.voxels):
        return {}
    split, merge = variation_of_information(known)
    return {"vi_split": split, "vi_merge": merge, "vi": split + merge, "arand": adapted_rand_error(known)}


TASK = Task(
    name="evaluate",
    summary="Score a result against ground truth.",
    parameters=Evaluate,
    run=run,
    in_process=True,
    menu=(MenuEntry("Tools", "Evaluate"),),
)
