"""The panel of a task in plain napari: its form, its run, its results."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from connectoscope.errors import Cancelled, UserError
from connectoscope.jobs.folder import JobFolder, JobState
from connectoscope.tasks.base import load_task
from connectoscope.words import data_size, duration
from napari_connectoscope.cascade_map import level0_text
from napari_connectoscope.check import CheckController
from napari_connectoscope.forms import TaskForm
from napari_connectoscope.jobs import JobWatcher, time_left
from napari_connectoscope.plan_view import has_numbers
from napari_connectoscope.preview import PreviewController
from napari_connectoscope.results import add_result_in_background, finish_results, refresh_result
from napari_connectoscope.sources import layer_facts, source_of
from napari_connectoscope.submission import SPILLED, Submission
from napari_connectoscope.taken import start
from napari_connectoscope.threads import background


class TaskPanel(QWidget):
    """A task's form with *Run*, *Preview*, *Cancel*, *Resume*; its results appear while the job runs.

    Args:
        viewer: Where the source is and the results go.
        task: The task's name.
        preset: Values to begin with.
    """

    submitted = Signal(object)  # JobFolder
    ended = Signal(object)  # JobState
    table_made = Signal(str)  # path of a CSV
    plan_made = Signal(object)  # the result event
    patches_made = Signal(str)  # path of a file of patches
    plotted = Signal(object)  # the plot event
    metric = Signal(object)  # the metric event
    layers_shown = Signal(object)  # list of layers of a result
    rested = Signal()  # a job or something of it has come to its end
    _copied = Signal(int, int)  # of the copy of a layer: pieces done, their total (from a thread)

    def __init__(
        self,
        viewer: ViewerModel,
        task: str,
        preset: Mapping[str, Any] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.form = TaskForm(load_task(task), viewer, preset)
        self.watcher: JobWatcher | None = None
        self.preview = PreviewController(viewer, self)
        self.checking = CheckController(self)
        self._stop_copying = threading.Event()
        self._destination = ""
        self._adding = 0  # results that are on their way into the viewer
        self._checked = ""  # what the check told

        layout = QVBoxLayout(self)
        layout.addWidget(self.form)
        self.note = QLabel()
        self.note.setWordWrap(True)
        layout.addWidget(self.note)
        self.run_button = self._button("Run", "Start the task (it goes on when napari is closed)", self.run)
        self.preview_button = self._button("Preview", "Run the model on what is visible", self._run_preview)
        self.preview_button.setVisible(self.form.task.previews)
        self.copy_button = self._button("Copy as command", "The same run from a terminal", self.copy_command)
        self.check_button = self._button("Check", "What the run will need: time, memory, disk", self.check)
        self.check_button.setVisible(self.form.task.preflight is not None)
        row = QHBoxLayout()
        for button in (self.run_button, self.preview_button, self.check_button, self.copy_button):
            row.addWidget(button)
        layout.addLayout(row)
        layout.addWidget(self.preview.threshold)
        self.preview.threshold.hide()
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.cancel_button = self._button(
            "Cancel", "Stop within seconds; finished blocks are kept", self.cancel
        )
        self.resume_button = self._button("Resume", "Go on where it stopped", self.resume)
        row = QHBoxLayout()
        row.addWidget(self.bar, 1)
        row.addWidget(self.cancel_button)
        row.addWidget(self.resume_button)
        layout.addLayout(row)
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout.addWidget(self.status)
        layout.addStretch(1)

        self.form.changed.connect(self._tell_copy)
        self.form.changed.connect(self._forget_check)
        self.preview.started.connect(
            lambda: self.status.setText("Preview: running the model on what is visible …")
        )
        self.preview.ready.connect(self._preview_ready)
        self.preview.failed.connect(self.form.show_error)
        self.preview.dropped.connect(self._preview_dropped)
        self.checking.told.connect(self._tell_check)
        self.checking.failed.connect(self._check_refused)
        self.preview.threshold.changed.connect(self._threshold_chosen)
        self._copied.connect(self._show_copied)
        preview, checking = self.preview, self.checking  # of the end the panel itself can hear no more
        self.destroyed.connect(self._stop_copying.set)
        self.destroyed.connect(lambda: (preview.close(), checking.stop()))
        self._tell_copy()
        self._show_state("idle")

    def _button(self, text: str, tip: str, slot: Any) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda _=False: slot())
        return button

    # -- asking ----------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Start the job, or say in the form what is missing."""
        self.form.show_error("")
        try:
            submission = self.form.submission()
        except UserError:  # the form says it
            return
        self._stop_copying.clear()
        self._show_state("starting")
        self.status.setText("Starting …")
        start(
            self,
            self.form,
            submission,
            started=self._watch,
            cancelled=lambda: self._refused(""),
            refused=self._refused,
            progress=self._copy_progress,
        )

    def check(self) -> None:
        """Say what a run will need, or in the form what is missing."""
        self.form.show_error("")
        try:
            self.checking.run(self.form.submission())
        except UserError:  # the form says it
            return

    def _tell_check(self, text: str) -> None:
        self._checked = text
        self.status.setText(text)

    def _forget_check(self) -> None:
        """What was said was of other values."""
        self.checking.stop()
        if self.status.text() == self._checked:  # else it tells of a job
            self.status.setText("")

    def _check_refused(self, text: str) -> None:
        self.status.setText("")
        self.form.show_error(text)

    def _copy_progress(self, done: int, total: int) -> None:
        """In the thread that copies."""
        if self._stop_copying.is_set():
            raise Cancelled("cancelled")
        if isalive(self):
            self._copied.emit(done, total)

    def _show_copied(self, done: int, total: int) -> None:
        self.bar.setValue(round(1000 * done / max(total, 1)))
        self.status.setText(f"Copying the layer: {done} of {total} pieces")

    def _tell_copy(self) -> None:
        """Before *Run*: what a layer in memory will cost."""
        layer = self.form.layer()
        text = ""
        if layer is not None and source_of(layer) is None:
            try:
                submission = Submission(self.form.task, self.form.values(), self._image(layer))
                size = data_size(submission.spilled_bytes)
                where = (
                    "read from its file if the pixels agree, else" if layer.source.path else "only in memory:"
                )
                text = f"'{layer.name}' is {where} {size} are copied beside the result first."
            except UserError as error:
                text = str(error)
        self.note.setText(text)
        self.note.setVisible(bool(text))

    def _image(self, layer: Layer) -> Any:
        from napari_connectoscope.sources import snapshot

        size = self.form.values().get(self.form.task.source_voxel_size)
        return snapshot(self.viewer, layer, size)

    def copy_command(self) -> None:
        """The command to the clipboard."""
        try:
            command = self.form.as_command()
        except UserError:  # the form says it
            return
        QGuiApplication.clipboard().setText(command)
        self.status.setText(f"Copied: {command}")

    def _run_preview(self) -> None:
        self.form.show_error("")
        try:
            self.form.submission()  # what a run would be refused for, a preview is
        except UserError:  # the form says it
            return
        self.preview.run(self.form.values())

    def _preview_dropped(self, line: str) -> None:
        self.preview.threshold.hide()
        self.status.setText(line)

    def _preview_ready(self, layers: object) -> None:
        self.preview.threshold.show()
        self.status.setText("Preview shown; the slider is the threshold.")

    def _threshold_chosen(self, name: str, value: int) -> None:
        """One target: what the slider says is what the run takes."""
        if len(self.preview.threshold.sliders) == 1 and "threshold" in self.form.fields:
            self.form.set_values({"threshold": value})

    # -- watching --------------------------------------------------------------------------------------------
    def _refused(self, text: str) -> None:
        self._show_state("idle")
        self.status.setText("")
        self.form.show_error("" if self._stop_copying.is_set() else text)
        self.rested.emit()

    def _watch(self, folder: JobFolder) -> None:
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher.deleteLater()
        self._destination = str(folder.request.destination or "")
        watcher = self.watcher = JobWatcher(folder, self)
        watcher.progressed.connect(self._progressed)
        watcher.resulted.connect(self._resulted)
        watcher.plotted.connect(self.plotted)
        watcher.metric.connect(self.metric)
        watcher.logged.connect(self.status.setText)
        watcher.ended.connect(self._job_ended)
        self._show_state("running")
        self.submitted.emit(folder)

    def _progressed(self, event: dict[str, Any]) -> None:
        self.bar.setValue(round(1000 * event.get("fraction", 0.0)))
        left = time_left(event)
        self.status.setText(
            f"{event['phase']}: {event['done']} of {event['total']}" + (f", {left} left" if left else "")
        )
        for layer in self._result_layers():
            refresh_result(layer)

    def _result_layers(self) -> list[Layer]:
        paths = {r["path"] for r in self.watcher.results} if self.watcher is not None else set()
        return [layer for layer in self.viewer.layers if layer_facts(layer).get("result") in paths]

    def _resulted(self, event: dict[str, Any]) -> None:
        if event["kind"] in ("table", "points"):
            self.table_made.emit(event["path"])
        if has_numbers(event):
            self.plan_made.emit(event)
        if event["kind"] == "patches":
            self.patches_made.emit(event["path"])
        if event["kind"] in ("table", "plan", "model", "ranking", "scores", "patches"):
            return
        targets = self.form.values().get("target")
        self._adding += 1
        add_result_in_background(
            self.viewer,
            event,
            owner=self,
            targets=targets,
            added=self._added,
            failed=self._not_added,
        )

    def _added(self, layers: list[Layer]) -> None:
        self._adding -= 1
        self.layers_shown.emit(layers)
        self.rested.emit()

    def _not_added(self, text: str) -> None:
        self._adding -= 1
        self.form.show_error(text)
        self.rested.emit()

    @property
    def is_busy(self) -> bool:
        """Whether there is a job, or what it made is not all shown yet."""
        return self._adding > 0 or not self.run_button.isEnabled()

    def _job_ended(self, state: JobState) -> None:
        watcher = self.watcher
        if watcher is None:
            return
        if self._destination:
            finish_results(self.viewer, self._destination)
        if state.status == "done":
            self._show_state("idle")
            self.bar.setValue(1000)
            warned = [f"⚠ {text}" for text in watcher.warnings]
            self.status.setText("\n".join([_summary_text(watcher.summary or {}), *warned]))
            folder = watcher.folder
            background(None, lambda: _tidy(folder), lambda _: None)
        else:
            self._show_state("stopped")
            self.status.setText(": ".join(filter(None, (state.status.capitalize(), state.message))))
        self.ended.emit(state)
        self.rested.emit()

    def cancel(self) -> None:
        """Stop the copy or the job; finished blocks are kept."""
        self._stop_copying.set()
        if self.watcher is not None and self.watcher.running:
            self.watcher.folder.cancel()
            self.status.setText("Cancelling …")

    def resume(self) -> None:
        """Go on with the job that stopped."""
        if self.watcher is None:
            return
        try:
            self.watcher.resume()
        except UserError as error:
            self.form.show_error(str(error))
            return
        self._show_state("running")

    def _show_state(self, state: str) -> None:
        self.run_button.setEnabled(state in ("idle", "stopped"))
        self.cancel_button.setVisible(state in ("starting", "running"))
        self.resume_button.setVisible(state == "stopped")
        self.bar.setVisible(state != "idle")
        if state == "starting":
            self.bar.setValue(0)

    def close_worker(self) -> None:
        """End the preview's worker, and a check."""
        self.preview.close()
        self.checking.stop()


def _tidy(folder: JobFolder) -> None:
    """After success only the result stays: plain napari keeps no history of jobs.

    Plans and patches are of the very file that they were made of, so a copy that was made for them stays beside it.
    """
    if folder.request.task in ("plan-cascade", "adapt suggest") and (folder.path / SPILLED).exists():
        return
    if (folder.path / SPILLED).exists() or folder.state().status == "done":
        folder.remove()


def _summary_text(summary: Mapping[str, Any]) -> str:
    objects = summary.get("objects")
    counts = ", ".join(f"{n} {name}" for name, n in objects.items()) if isinstance(objects, dict) else objects
    seconds = summary.get("seconds")
    found = f"Done: found {counts}" if counts not in (None, "") else "Done"
    done = found if seconds is None else f"{found} in {duration(seconds)}"
    verdict, read = str(summary.get("verdict", "")), level0_text(summary)
    return ". ".join(part for part in (verdict.rstrip(".") or done, read) if part)
