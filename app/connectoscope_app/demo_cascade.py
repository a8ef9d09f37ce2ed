"""The journey of a cascade, and its pictures: plan, run with the plan, see what was skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt

from connectoscope_app.journey import Condition, Journey, after

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_JOBS_HEIGHT = 190


class CascadeJourney(Journey):
    """*Detect ▸ Plan a cascade for cells*, then *Run with this plan*.

    Args:
        source: A volume with cells.
        folder: For the plan and the points.
    """

    menu = ("Detect", "Plan a cascade for cells")

    def __init__(self, window: MainWindow, source: str, folder: Path, images: Path | None) -> None:
        super().__init__(window, folder / "cells.cascade.json", images)
        self.source = source
        self._points = folder / "cells.csv"

    def _story(self) -> Iterator[Condition]:
        window = self.window
        yield from self._submit()
        yield from self._end_of_job()
        yield after(2.0)
        self._picture("cascade-plan")
        window.plots.plan.run_button.click()
        yield from self._run(self._points)
        yield from self._end_of_job()
        yield lambda: len(window.viewer.layers) == 3
        window.raise_dock("Jobs")
        window.resizeDocks([window.docks["Jobs"]], [_JOBS_HEIGHT], Qt.Orientation.Vertical)
        yield after(0.5)
        points = window.viewer.layers[-1]
        z = points.data[:, 0] * points.scale[0]
        thick = points.size.max() * points.scale[0] / 2
        busiest = max(z, key=lambda plane: (abs(z - plane) < thick).sum())
        window.viewer.reset_view()
        window.viewer.dims.set_point(0, busiest)
        yield after(2.0)
        self._picture("cascade-run")
        summary = window.jobs.model.watcher(0).summary or {}
        self.report = (
            f"found {summary['objects']['cells']} cells in {self.source} with a cascade, "
            f"which read {100 * summary['level0_read']:.1f} % of level 0"
        )
