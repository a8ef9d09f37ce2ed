"""Prune a model: keep the connections that are worth keeping, by what its units do (:mod:`connectoscope.pruning`).

Training goes on with masks that follow the rule; then channels that do nothing are removed. The original model stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import model_validator

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.tasks.base import MenuEntry, NewModel, Parameters, Task, checked_by, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


def _check_page(text: str) -> None:
    page = expanded(text)
    if page.suffix != ".html" or page.is_dir():
        raise UserError(f"{page.name or text}: the report is a page; name it NAME.html")


class Prune(Parameters):
    """A smaller model from a model and labelled data."""

    model: str = parameter(role="model", argument=True, help="Model: a name from 'models list' or a folder.")
    destination: NewModel = parameter(
        role="new_model", argument=True, help="New model: a folder, or a bare name among your own models."
    )
    data: str = parameter(
        role="recipe", label="Recipe", help="Recipe (TOML) that names the volumes and labels for retraining."
    )
    rule: Literal["budgeted-broadcast", "magnitude", "shuffled", "reversed", "rigl", "set"] = parameter(
        "budgeted-broadcast",
        help="Which connections are kept: by activity (budgeted-broadcast), or for comparison the strongest (magnitude), "
        "by shuffled or reversed activity, or as RigL or SET choose.",
    )
    actuator: Literal["in", "out", "both"] = parameter(
        "out",
        help="Which connections a unit's activity limits: those that it receives (in), sends (out), or both.",
    )
    density: float = parameter(0.3, gt=0, le=1, help="Share of the connections that is kept.")
    structured: bool = parameter(
        False, help="Remove whole channels, so that the model becomes faster on every device."
    )
    steps: int = parameter(600, ge=50, help="Training steps in total.")
    report: Annotated[str | None, checked_by(_check_page)] = parameter(
        None,
        role="page",
        advanced=True,
        help="Also write a report (before and after, balance of the units, layers) as a web page: NAME.html.",
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed.")

    @property
    def limits_activity(self) -> bool:
        """Whether ``actuator`` has a part in what stays."""
        return not self.structured and self.rule in ("budgeted-broadcast", "shuffled", "reversed")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.actuator != "out" and not self.limits_activity:
            what = "whole channels" if self.structured else f"rule {self.rule}"
            raise UserError(f"--actuator {self.actuator} has no part in pruning by {what}: leave it out")
        return self


def run(parameters: Prune, context: Context) -> dict[str, Any]:
    """Train on with masks, compact, measure before and after, write the bundle.

    Goes on from the job's checkpoint, exactly, where there is one.

    Raises:
        UserError: destination exists, recipe and model do not go together, or the density cannot be reached.
    """
    from connectoscope.pruning.run import prune

    return prune(parameters, context)


def render(summary: dict[str, Any]) -> str:
    """The receipt."""
    from connectoscope.pruning.receipt import rows, verdict

    table = [["", "before", "after"], *rows(**summary["receipt"])]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    lines = ["  ".join((r[0].ljust(widths[0]), r[1].rjust(widths[1]), r[2].rjust(widths[2]))) for r in table]
    return "\n".join([summary["model"], verdict(**summary["receipt"]), *lines])


TASK = Task(
    name="prune",
    summary="Make a model smaller and faster by removing connections or channels.",
    parameters=Prune,
    run=run,
    destination="destination",
    menu=(MenuEntry("Models", "Prune", {"model": "synapse-vnc"}),),
    render=render,
)
