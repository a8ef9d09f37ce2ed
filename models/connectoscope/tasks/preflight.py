"""What a segmentation will need, before it runs: ``segment --dry-run``, and the window's *Check*."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import Task, open_source
from connectoscope.tasks.segment import Segment

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


def run(parameters: Segment, context: Context) -> dict[str, Any]:
    """Refuses what the run would refuse; nothing is written.

    Raises:
        UserError: unusable input or destination.
    """
    from connectoscope.segmentation.preflight import preflight
    from connectoscope.zoo import find_model

    volume = open_source(parameters, parameters.source, skip_corrupt=parameters.skip_corrupt)
    return preflight(volume, find_model(parameters.model), parameters, context)


def render(summary: dict[str, Any]) -> str:
    """Lines for people."""
    from connectoscope.segmentation.preflight import render as lines

    return lines(summary)


TASK = Task(
    name="preflight",
    summary="Report what a segmentation will need.",
    parameters=Segment,
    run=run,
    hidden=True,
    render=render,
)
