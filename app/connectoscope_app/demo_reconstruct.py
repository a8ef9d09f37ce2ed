"""The journey from X-ray to EM, and its pictures: side by side with the uncertainty, and across a line what is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt

from connectoscope_app.journey import Condition, Journey, after
from napari_connectoscope.sources import finest

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_JOBS_HEIGHT = 150
_COVERED = 10.0  # per cent of the middle plane


class ReconstructJourney(Journey):
    """*Reconstruct ▸ X-ray to EM*, then *Swipe*.

    Args:
        source: An X-ray volume.
        folder: For the reconstruction.
    """

    menu = ("Reconstruct", "X-ray to EM")

    def __init__(self, window: MainWindow, source: str, folder: Path, images: Path | None) -> None:
        super().__init__(window, folder / "em.ome.zarr", images)
        self.source = source

    def _story(self) -> Iterator[Condition]:
        window = self.window
        yield from self._submit()
        yield from self._end_of_job()
        comparison, panes = window.comparison, window.panes
        yield lambda: len(panes.models) == 2 and "Not trusted" in panes.models[1].layers
        window.raise_dock("Jobs")
        window.resizeDocks([window.docks["Jobs"]], [_JOBS_HEIGHT], Qt.Orientation.Vertical)
        yield after(1.0)
        panes.models[0].reset_view()
        yield after(2.0)
        self._picture("reconstruct")
        trust = comparison.trust
        if trust is None:
            return
        right = panes.models[1]
        sd = np.asarray(finest(right.layers["Uncertainty"])[right.dims.current_step[0]])
        worst = float(np.percentile(sd.astype(np.float32), 100 - _COVERED))
        trust.slider.setValue(round(worst / trust.colours.end * trust.slider.maximum()))
        trust.overlay.setCurrentText("No colours")
        trust.overlay.activated.emit(trust.overlay.currentIndex())
        comparison.toggle_swipe()
        yield after(2.0)
        self._picture("reconstruct-swipe")
        summary = window.jobs.model.watcher(0).summary or {}
        self.report = (
            f"made EM from {self.source}; {100 * summary['untrusted_share']:.1f} % of it lie above the sd that 99 % of the "
            "checked voxels stayed below"
        )
