"""Score a result against a truth: voxels, objects, partitions, points (:mod:`connectoscope.evaluation`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, Parameters, Task, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context

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
        help="A segmentation made by 'segment', any labels or mask, or points: a table or cellfinder's XML.",
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
    summary = {"task": "evaluate", "target": parameters.target, "box": parameters.box} | dict.fromkeys(KEYS)
    summary |= _score(parameters, context)
    rows = [[name, _shown(summary[key])] for key, name in KEYS.items() if summary[key] is not None]
    what = " ".join(filter(None, (Path(parameters.result).name, parameters.target)))
    context.result(
        "scores", context.folder, what, text=f"{what} against {Path(parameters.truth).name}", table=rows
    )
    return summary


def _score(parameters: Evaluate, context: Context) -> dict[str, Any]:
    from connectoscope.evaluation.points_run import is_points, score_points
    from connectoscope.evaluation.run import score_volumes

    if is_points(parameters.result) or is_points(parameters.truth):
        return score_points(parameters, context)
    if parameters.within is not None:
        raise UserError("--within is for points; labels count as found where they overlap (--matching)")
    return score_volumes(parameters, context)


def _shown(value: float | int | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


TASK = Task(
    name="evaluate",
    summary="Score a result against ground truth.",
    parameters=Evaluate,
    run=run,
    in_process=True,
    menu=(MenuEntry("Tools", "Evaluate"),),
)
