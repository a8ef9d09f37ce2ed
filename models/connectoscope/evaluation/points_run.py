"""Score points against points, one to one, in nanometres."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np

from connectoscope.detection.points import Points, read_points
from connectoscope.errors import UserError
from connectoscope.evaluation.points import match_points
from connectoscope.paths import expanded
from connectoscope.volumes.geometry import NANOMETRES, parse_box, parse_length, parse_voxel_size, unit_symbol

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.evaluate import Evaluate


def is_points(path: str) -> bool:
    """By its name; an XML may also be BigDataViewer's, of volumes."""
    if path.lower().endswith(".xml"):
        with contextlib.suppress(OSError), expanded(path).open("rb") as file:
            return b"<SpimData" not in file.read(1024)
    return path.lower().endswith((".csv", ".xml"))


def score_points(parameters: Evaluate, context: Context) -> dict[str, Any]:
    """Of the task's keys those that apply.

    Raises:
        UserError: one of them holds no points, or how far they are apart cannot be told.
    """
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
            f"{in_voxels[0]} holds voxel indices: voxel 0 is taken to lie at position 0, 0, 0 of the other table; "
            "where the volume begins elsewhere (connectoscope info), compare two tables of the same kind"
        )
    places = [p.position * (NANOMETRES[p.unit] if p.unit else voxel) for p in tables]
    if parameters.box is not None:
        box = parse_box(parameters.box)
        voxels = [np.rint(p / voxel) for p in places]
        inside = [((v >= box.start) & (v < box.stop)).all(axis=1) for v in voxels]
        places = [p[kept] for p, kept in zip(places, inside, strict=True)]
    context.check_cancelled()
    m = match_points(places[0], places[1], within * NANOMETRES[unit])
    return {
        "f1": m.f1, "precision": m.precision, "recall": m.recall,
        "object_f1": m.f1, "object_tp": m.tp, "object_fp": m.fp, "object_fn": m.fn,
        "matching": f"within {within:g} {unit_symbol(unit)}",
    }  # fmt: skip


def _within(parameters: Evaluate, found: Points) -> tuple[float, str]:
    """A length and its unit; of nothing found no pair can come, at any distance."""
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
