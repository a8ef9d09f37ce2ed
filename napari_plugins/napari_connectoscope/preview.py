"""Preview: the model on what is visible, by a warm worker, with a threshold that follows the hand.

The probabilities stay whole (uint8); the threshold is only the layers' contrast limits, so that moving it costs
nothing. Objects of the run are made by the same rule: foreground is >= threshold.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QObject, QProcess, QProcessEnvironment, Qt, Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSlider, QSpinBox, QVBoxLayout, QWidget

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder, JobState
from connectoscope.segmentation.targets import output_of
from connectoscope.volumes.geometry import Box
from napari_connectoscope import jobs
from napari_connectoscope.layers import LayerData, probability_colormap, title_of
from napari_connectoscope.sources import (
    LAYER_PREFIX,
    check_unmoved,
    file_facts,
    is_source,
    snapshot,
    source_of,
    spill,
    visible_box,
)
from napari_connectoscope.threads import background

LARGEST_SIDE = 768  # voxels of y and x: a few seconds on two cores
DEPTH = 8  # sections around the current one; the network reads its surroundings anyway
_END_MS = 1500


class ThresholdPanel(QWidget):
    """A threshold slider (1-255) for each previewed output; ``changed`` carries output name and threshold."""

    changed = Signal(str, int)

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._grid = QGridLayout()
        layout.addLayout(self._grid)
        self.as_objects = QCheckBox("Show what is above the threshold")
        self.as_objects.setToolTip("Off: the probabilities themselves")
        self.as_objects.setChecked(True)
        self.as_objects.toggled.connect(lambda _: self._apply_all())
        layout.addWidget(self.as_objects)
        self.sliders: dict[str, QSlider] = {}
        self._layers: dict[str, Image] = {}
        self._by_hand: dict[str, int] = {}

    def forget(self) -> None:
        """What was chosen by hand was for another question."""
        self._by_hand = {}

    def set_layers(self, layers: Mapping[str, Image], thresholds: Mapping[str, int]) -> None:
        """Show a slider for each layer; a threshold that was chosen by hand stays, until :meth:`forget`."""
        thresholds = {**thresholds, **self._by_hand}
        self._layers = dict(layers)
        while (item := self._grid.takeAt(0)) is not None:
            item.widget().deleteLater()
        self.sliders = {}
        for row, name in enumerate(layers):
            self._add_row(row, name, thresholds.get(name, 128))
        self._apply_all()

    def _add_row(self, row: int, name: str, threshold: int) -> None:
        slider, number = QSlider(Qt.Orientation.Horizontal), QSpinBox()
        for widget in (slider, number):
            widget.setRange(1, 255)
            widget.setValue(threshold)
            widget.setToolTip(f"{title_of(name)}: foreground from this probability on (of 255)")
        slider.valueChanged.connect(number.setValue)
        number.valueChanged.connect(slider.setValue)
        slider.valueChanged.connect(lambda value: self._moved(name, value))
        label = QLabel(title_of(name))
        label.setBuddy(slider)
        for column, widget in enumerate((label, slider, number)):
            self._grid.addWidget(widget, row, column)
        self.sliders[name] = slider

    def _moved(self, name: str, value: int) -> None:
        self._by_hand[name] = value
        self._apply(name, value)
        self.changed.emit(name, value)

    def _apply_all(self) -> None:
        for name, slider in self.sliders.items():
            self._apply(name, slider.value())

    def _apply(self, name: str, threshold: int) -> None:
        """Whole numbers between t - 1 and t are all or nothing."""
        self._layers[name].contrast_limits = (
            (threshold - 1, threshold) if self.as_objects.isChecked() else (0, 255)
        )


class PreviewController(QObject):
    """Runs the task ``preview`` on the visible part of a layer and shows the answer.

    Args:
        viewer: Where it looks and where the layers go.
    """

    started = Signal()
    ready = Signal(object)  # list of layers
    failed = Signal(str)  # one line
    dropped = Signal(str)  # why nothing of it is shown any more
    progressed = Signal(object)  # the progress event

    def __init__(self, viewer: ViewerModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.threshold = ThresholdPanel()
        self._worker: QProcess | None = None  # kept: a QProcess that is collected kills its child
        self._generation = 0  # answers to an older question are dropped
        self._source: weakref.ref[Layer] | None = None  # what the latest question is of
        self._watcher: jobs.JobWatcher | None = None
        self._layers: dict[str, Image] = {}
        self._asked: tuple[str, int | None] | None = None  # model and threshold of what is shown
        self._closing = False
        application = QCoreApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.close)

    # -- asking ----------------------------------------------------------------------------------------------
    def run(self, values: Mapping[str, Any]) -> None:
        """Preview with the values of a form (``source``, ``model``, ``target``, ``threshold``, …)."""
        layer = self._layer_of(str(values.get("source", "")))
        if layer is None:
            self.failed.emit("show the source in the viewer first: the preview is of what is visible")
            return
        box = _clipped(visible_box(self._viewer, layer, depth=DEPTH))
        if box.size == 0:
            self.failed.emit(
                f"nothing of '{layer.name}' is in view: move there first (Home shows everything)"
            )
            return
        try:
            check_unmoved(layer)
            image = None if source_of(layer) else snapshot(self._viewer, layer, values.get("voxel_size"))
        except UserError as error:
            self.failed.emit(str(error))
            return
        self._generation += 1
        generation = self._generation
        self._source = weakref.ref(layer)
        self._stop_watching()
        self._ensure_worker()
        asked = _asked(values, layer, box)

        def prepare() -> JobFolder:
            if image is None:
                return jobs.create("preview", asked)
            # In memory only: the little that is visible is copied into the job's own folder.
            values = {**asked, "box": None, "voxel_size": None}
            folder, path = jobs.create_of_copy("preview", values, "source.ome.zarr")
            spill(image, box, path)
            return folder

        self.started.emit()
        background(  # answered in any case: a folder that nobody waits for has to go
            None,
            prepare,
            lambda folder: self._send(folder, generation, values),
            lambda text: self._fail(generation, text),
        )

    def _layer_of(self, source: str) -> Layer | None:
        for layer in self._viewer.layers:
            if not isinstance(layer, Image) or not is_source(layer):
                continue
            if source in (source_of(layer), f"{LAYER_PREFIX}{layer.name}"):
                return layer
        return None

    def _send(self, folder: JobFolder, generation: int, values: Mapping[str, Any]) -> None:
        if generation != self._generation:
            background(None, folder.remove, lambda _: None)
            return
        worker = self._ensure_worker()  # it may have died meanwhile
        watcher = jobs.JobWatcher(folder, self)
        self._watcher = watcher
        watcher.progressed.connect(self.progressed)
        watcher.ended.connect(lambda state: self._ended(watcher, state, generation, values))
        worker.write(os.fsencode(str(folder.path)) + b"\n")

    def _ended(
        self, watcher: jobs.JobWatcher, state: JobState, generation: int, values: Mapping[str, Any]
    ) -> None:
        folder, model = watcher.folder, str(values["model"])
        outputs = [str(target) for target in values.get("target") or ()]
        path = next((r["path"] for r in watcher.results if r["kind"] == "image"), None)
        if state.status != "done" or path is None:
            self._fail(generation, state.message or "the preview ended without a result")
            return

        def read() -> tuple[dict[str, LayerData], dict[str, int]]:
            answer = _read_preview(path, model, outputs)
            folder.remove()
            return answer

        def show(answer: tuple[dict[str, LayerData], dict[str, int]]) -> None:
            if generation != self._generation:
                return
            source = self._source() if self._source is not None else None
            if source is None or source not in self._viewer.layers:  # it may have got another name
                self.abandon()  # of an earlier question, too: it was of the same volume
                self.dropped.emit("The preview was removed, since its volume was closed.")
            else:
                self._stop_watching()
                self._show(*answer, model=model, threshold=values.get("threshold"))

        background(self, read, show, lambda text: self._fail(generation, text))

    # -- answering -------------------------------------------------------------------------------------------
    def _show(
        self, found: dict[str, LayerData], thresholds: dict[str, int], *, model: str, threshold: int | None
    ) -> None:
        self.clear()
        if self._asked != (model, threshold):  # what the form and the card say counts
            self.threshold.forget()
        self._asked = (model, threshold)
        for name, (data, options, _) in found.items():
            self._layers[name] = Image(data, **options)
        if threshold is not None:
            thresholds = dict.fromkeys(found, threshold)
        self.threshold.set_layers(self._layers, thresholds)
        active = self._viewer.layers.selection.active
        for layer in self._layers.values():
            self._viewer.add_layer(layer)
        self._viewer.layers.selection.active = active  # the source stays chosen
        self.ready.emit(list(self._layers.values()))

    def _fail(self, generation: int, text: str) -> None:
        if generation == self._generation:
            self._stop_watching()
            self.failed.emit(text)

    def clear(self) -> None:
        """Remove the preview's layers."""
        for layer in self._layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layers = {}

    def abandon(self) -> None:
        """Remove the layers, and do not show what is still on its way."""
        self._generation += 1
        self._stop_watching()
        self.clear()

    def look_at(self, viewer: ViewerModel) -> None:
        """Another viewer from now on."""
        self.abandon()
        self._viewer = viewer

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            if self._watcher.running:
                self._watcher.folder.cancel()
            self._watcher.deleteLater()
            self._watcher = None

    # -- the worker ------------------------------------------------------------------------------------------
    def warm_up(self) -> None:
        """Start the worker ahead of the first preview."""
        self._ensure_worker()

    def _ensure_worker(self) -> QProcess:
        if self._worker is not None and self._worker.state() != QProcess.ProcessState.NotRunning:
            return self._worker
        worker = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUNBUFFERED", "1")
        worker.setProcessEnvironment(environment)
        worker.setStandardOutputFile(QProcess.nullDevice())  # answers come by the folders' events
        worker.setProcessChannelMode(QProcess.ProcessChannelMode.SeparateChannels)
        worker.finished.connect(lambda *_: self._worker_ended(worker))
        worker.errorOccurred.connect(lambda *_: self._worker_ended(worker))
        worker.start(sys.executable, ["-P", "-m", "connectoscope", "run", "--serve"])
        self._worker = worker
        return worker

    def _worker_ended(self, worker: QProcess) -> None:
        if not isalive(self) or not isalive(worker):  # it ends because they went
            return
        if self._closing or worker is not self._worker or worker.state() != QProcess.ProcessState.NotRunning:
            return
        lines = bytes(worker.readAllStandardError().data()).decode(errors="replace").strip().splitlines()
        self._worker = None
        worker.deleteLater()
        if self._watcher is not None:
            self._fail(
                self._generation,
                f"the preview's worker ended ({lines[-1] if lines else 'killed'}); try again",
            )

    def close(self) -> None:
        """End the worker; the layers stay."""
        self._closing = True
        self._generation += 1
        unfinished = self._watcher.folder if self._watcher is not None else None
        self._stop_watching()
        if self._worker is not None and isalive(self._worker):
            self._worker.closeWriteChannel()  # it ends with its input
            if not self._worker.waitForFinished(0):
                self._worker.terminate()
            if not self._worker.waitForFinished(_END_MS):
                self._worker.kill()
                self._worker.waitForFinished(_END_MS)
        self._worker = None
        if unfinished is not None:
            unfinished.remove()
        self._closing = False


def _clipped(box: Box) -> Box:
    """The middle of a box, no larger than a preview can be."""
    largest = (DEPTH, LARGEST_SIDE, LARGEST_SIDE)
    start = [a + max(0, n - m) // 2 for a, n, m in zip(box.start, box.shape, largest, strict=True)]
    stop = [a + min(n, m) for a, n, m in zip(start, box.shape, largest, strict=True)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _asked(values: Mapping[str, Any], layer: Layer, box: Box) -> dict[str, Any]:
    """The preview task's parameters, as far as it has them."""
    from connectoscope.tasks.base import load_task

    facts = file_facts(layer)
    wanted = {
        **{name: facts[name] for name in ("channel", "time", "voxel_size") if facts.get(name) is not None},
        **{name: value for name, value in values.items() if value is not None},
        "box": str(box),
        "level": 0,
    }
    known = load_task("preview").parameters.model_fields
    return {name: value for name, value in wanted.items() if name in known}


def _read_preview(path: str, model: str, outputs: list[str]) -> tuple[dict[str, LayerData], dict[str, int]]:
    """Layers of the wanted outputs, read into memory, and the card's thresholds.

    Where none is wanted: those that the model makes objects of.
    """
    from connectoscope.volumes import open_volume
    from connectoscope.zoo import find_model

    first = open_volume(path)
    names = first.channels or (first.name,)
    card = {output.name: output for output in find_model(model).card.outputs}
    wanted = set(map(output_of, outputs))
    wanted = wanted or {name for name, output in card.items() if output.instances} or set(names)
    thresholds = {name: output.threshold for name, output in card.items()}
    found: dict[str, LayerData] = {}
    for number, name in enumerate(names):
        if name not in wanted:
            continue
        volume = open_volume(path, channel=number) if first.channels else first
        options = {
            "name": f"Preview · {title_of(name)}",
            "scale": volume.levels[0].scale,
            "translate": volume.levels[0].translation,
            "units": (volume.unit or "pixel",) * 3,
            "axis_labels": ("z", "y", "x"),
            "colormap": probability_colormap(name, number),
            "blending": "additive",
            "contrast_limits": (0, 255),
            "metadata": {"connectoscope": {"result": "preview", "channel_name": name}},
        }
        found[name] = (np.asarray(volume.levels[0].array.read().result()), options, "image")
    return found, thresholds
