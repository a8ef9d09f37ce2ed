"""The journey to new tissue, and its pictures: rank the models, suggest patches, label them, train on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt

from connectoscope.training.labels import boundaries
from connectoscope.volumes import open_volume
from connectoscope_app.journey import Condition, Journey, after

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_JOBS_HEIGHT = 150
_STEPS = 40


class AdaptJourney(Journey):
    """*Adapt ▸ Rank Models* to the receipt of *Adapt ▸ Train on Patches*.

    Args:
        source: A sample with ``labels/neurons``, whose boundaries stand in for those that a person would paint.
        folder: For the patches, the labels and the new model.
    """

    menu = ("Adapt", "Rank Models")

    def __init__(self, window: MainWindow, source: str, folder: Path, images: Path | None) -> None:
        super().__init__(window, None, images)
        self.source = source
        self._folder = folder

    def _story(self) -> Iterator[Condition]:
        window = self.window
        yield from self._submit()
        yield from self._end_of_job()
        yield after(2.0)
        self._picture("adapt-rank")
        window.plots.plan.suggest_button.click()
        yield from self._run(self._folder / f"{self.source.removeprefix('sample:')}.patches.json")
        yield from self._end_of_job()
        panel = window.labels
        yield lambda: bool(panel.layers)
        window.raise_dock("Jobs")
        window.resizeDocks([window.docks["Jobs"]], [_JOBS_HEIGHT], Qt.Orientation.Vertical)
        window.resizeDocks(
            [window.docks["Layers"], window.docks["Patches"]], [480, 420], Qt.Orientation.Vertical
        )
        yield after(1.0)
        self._paint()
        panel.finish()
        yield after(2.0)
        self._picture("adapt-label")
        while panel.bar.value() < panel.bar.maximum():
            self._paint()
            panel.finish()
            yield after(0.5)
        panel.train_button.click()
        form = window.task_panel.form
        if form is not None:
            form.set_values({"steps": _STEPS})
        yield from self._run(self._folder / "adapted")
        yield from self._end_of_job()
        yield after(2.0)
        self._picture("adapt-train")
        self.report = window.plots.plan.verdict.text()

    def _paint(self) -> None:
        """The boundaries of the neurons in the patch at hand."""
        panel = self.window.labels
        layer = self.window.viewer.layers.selection.active
        if panel.labelling is None:
            return
        file = panel.labelling.file
        name = layer.metadata["connectoscope"]["patch"]
        box = next(patch.voxels for patch in file.patches if patch.id == name)
        neurons = open_volume(f"{file.source.path}/labels/neurons").read(box)
        layer.data[...] = boundaries(neurons)
        layer.refresh()
