"""The form of the task at hand, with Run, Preview and *Copy as command*."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from napari.components import ViewerModel
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, Task
from napari_connectoscope.check import CheckController
from napari_connectoscope.fields import PathField
from napari_connectoscope.forms import TaskForm, make_error_line
from napari_connectoscope.preview import PreviewController
from napari_connectoscope.taken import start
from napari_connectoscope.wording import in_form_words

_HINT = "Choose a task from the menus, for example Segment ▸ Synapses."
_BAR = 12  # pixels: a scroll bar, and the gap before it


class TaskPanel(QWidget):
    """``submitted`` carries the folder of a job that was started, ``told`` a line for the status bar."""

    submitted = Signal(object)  # JobFolder
    told = Signal(str)
    failed = Signal(str)  # one line

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.form: TaskForm | None = None
        self.preview: PreviewController | None = None
        self.title = QLabel("No task chosen")
        self.title.setObjectName("heading")
        self.title.setWordWrap(True)
        self.summary = QLabel(_HINT)
        self.summary.setObjectName("muted")
        self.summary.setWordWrap(True)
        self.run_button = QPushButton("Ru&n")  # letters that no menu has
        self.run_button.setProperty("accent", True)
        self.run_button.setToolTip("Run on the whole volume, or on the box (Ctrl+Return)")
        self.preview_button = QPushButton("&Preview")
        self.preview_button.setToolTip("Run the model on what is visible (Ctrl+Shift+Return)")
        self.check_button = QPushButton("Chec&k")
        self.check_button.setToolTip("What the run will need: time, memory, disk")
        self.copy_button = QPushButton("&Copy as command")
        self.copy_button.setToolTip("The same run as a command for a terminal (Ctrl+Shift+C)")
        self.run_button.clicked.connect(self.run)
        self.preview_button.clicked.connect(self.run_preview)
        self.check_button.clicked.connect(self.check)
        self.copy_button.clicked.connect(self.copy_command)
        self.checking = CheckController(self)
        self.needs = QLabel()
        self.needs.setWordWrap(True)
        self.needs.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.checking.told.connect(self._tell_needs)
        self.checking.failed.connect(self._check_refused)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._error = make_error_line()
        self._slider_place = QVBoxLayout()
        self._slider_place.setContentsMargins(0, 0, 0, 0)
        self._buttons = QWidget()
        row = QHBoxLayout(self._buttons)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)  # so that they are no wider than the layer controls above them
        row.addWidget(self.run_button, 1)
        row.addWidget(self.preview_button, 1)
        row.addWidget(self.check_button, 1)
        row.addWidget(self.copy_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 10, 10)
        layout.setSpacing(8)
        layout.addWidget(self.title)
        layout.addWidget(self.summary)
        layout.addWidget(self._scroll, 1)
        layout.addWidget(self._error)  # below what is scrolled: it is seen beside the field that it speaks of
        layout.addLayout(self._slider_place)
        layout.addWidget(self.needs)
        layout.addWidget(self._buttons)
        self._buttons.hide()
        self.needs.hide()

    def show_task(self, task: Task, entry: MenuEntry, viewer: ViewerModel) -> None:
        """A fresh form of ``task`` with the values of ``entry``."""
        placed = entry.menu not in ("", entry.title)
        self.title.setText(f"{entry.menu} ▸ {entry.title}" if placed else entry.title)
        self.summary.setText(task.summary)
        self.form = TaskForm(task, viewer, entry.preset, error_line=self._error)
        self._scroll.setWidget(self.form)  # the form before goes
        self._scroll.setMinimumWidth(self.form.minimumSizeHint().width() + _BAR)  # nothing is cut
        self._buttons.show()
        self.preview_button.setVisible(task.previews)
        self.check_button.setVisible(task.preflight is not None)
        self._forget_needs()
        self.form.changed.connect(self._forget_needs)
        self._viewer, self._entry = viewer, entry
        self._drop_preview()
        if self.preview is not None:
            self.preview.look_at(viewer)
        self.form.setFocus()

    def go_to(self, viewer: ViewerModel) -> None:
        """The form as it is, but of what another viewer shows."""
        if self.form is None or self._viewer is viewer:
            return
        form, task = self.form, self.form.task
        kept = {name: field.value() for name, field in form.fields.items()}
        of_layer = form.layer() is not None or not kept.get(task.source)
        if task.source and of_layer:  # a layer of the viewer that is left
            for name in (task.source, task.source_voxel_size, "channel", "time"):
                kept.pop(name, None)
        destination = form.fields.get(task.destination or "")
        if not (isinstance(destination, PathField) and destination.edited_by_hand):
            kept.pop(task.destination or "", None)
        self.show_task(task, replace(self._entry, preset=kept), viewer)

    def run(self) -> None:
        """Check the form and start the job in a process of its own."""
        if self.form is None:
            self.told.emit(_HINT)
            return
        if not self.run_button.isEnabled():  # the key was pressed twice
            return
        self.form.show_error("")
        try:
            submission = self.form.submission()
        except UserError:  # the form shows the line beside its fields
            return
        self.run_button.setEnabled(False)
        self.told.emit(f"Starting {submission.task.name} …")
        start(
            self,
            self.form,
            submission,
            started=self._submitted,
            cancelled=self._not_started,
            refused=self._refused,
        )

    def check(self) -> None:
        """Say what a run will need."""
        if self.form is None or self.check_button.isHidden():
            self.told.emit(_HINT if self.form is None else "This task has no check.")
            return
        self.form.show_error("")
        try:
            self.checking.run(self.form.submission())
        except UserError:  # the form shows the line beside its fields
            return

    def run_preview(self) -> None:
        """Run the model on what is visible."""
        if self.form is None or self.preview_button.isHidden():
            self.told.emit(_HINT if self.form is None else "This task has no preview.")
            return
        self.form.show_error("")
        try:
            self.form.submission()  # what a run would be refused for, a preview is
        except UserError:  # the form shows the line beside its fields
            return
        self._controller().run(self.form.values())

    def copy_command(self) -> None:
        """Put the command line of this form on the clipboard."""
        if self.form is None:
            self.told.emit(_HINT)
            return
        try:
            command = self.form.as_command()
        except UserError:
            return
        QGuiApplication.clipboard().setText(command)
        self.told.emit(f"Copied: {command}")

    def close_preview(self) -> None:
        """End the warm worker, and a check."""
        self.checking.stop()
        if self.preview is not None:
            self.preview.close()

    def _submitted(self, folder: Any) -> None:
        self.run_button.setEnabled(True)
        self._drop_preview()  # the result comes in its place
        self.submitted.emit(folder)

    def _tell_needs(self, text: str) -> None:
        self.needs.setText(text)
        self.needs.show()

    def _forget_needs(self) -> None:
        """What was said was of other values."""
        self.checking.stop()
        self.needs.hide()

    def _check_refused(self, line: str) -> None:
        self.needs.hide()
        self._fail(line)

    def _drop_preview(self) -> None:
        if self.preview is not None:
            self.preview.abandon()
            self.preview.threshold.hide()
            self._preview_ended()

    def _not_started(self) -> None:
        self.run_button.setEnabled(True)
        self.told.emit("Not started")

    def _refused(self, line: str) -> None:
        self.run_button.setEnabled(True)
        self._fail(line)

    def _controller(self) -> PreviewController:
        if self.preview is None:
            self.preview = PreviewController(self._viewer, self)
            self.preview.started.connect(self._preview_started)
            self.preview.ready.connect(self._preview_ready)
            self.preview.failed.connect(self._preview_failed)
            self.preview.dropped.connect(self._preview_dropped)
            self.preview.threshold.changed.connect(self._threshold_chosen)
            self._slider_place.addWidget(self.preview.threshold)
            self.preview.threshold.hide()
        return self.preview

    def _preview_started(self) -> None:
        self.preview_button.setEnabled(False)
        self.preview_button.setText("Previewing …")
        self.told.emit("Preview: running the model on what is visible …")

    def _preview_ready(self, _layers: object) -> None:
        self._preview_ended()
        if self.preview is not None:
            self.preview.threshold.show()
        self.told.emit("Preview ready: move the threshold below the form")

    def _threshold_chosen(self, _name: str, value: int) -> None:
        """One target: what the slider says is what the run takes."""
        one = self.preview is not None and len(self.preview.threshold.sliders) == 1
        if one and self.form is not None and "threshold" in self.form.fields:
            self.form.set_values({"threshold": value})

    def _preview_failed(self, line: str) -> None:
        self._preview_ended()
        self._fail(line)

    def _fail(self, line: str) -> None:
        self.failed.emit(line if self.form is None else in_form_words(line, self.form.task))

    def _preview_dropped(self, line: str) -> None:
        self._drop_preview()
        self.told.emit(line)

    def _preview_ended(self) -> None:
        self.preview_button.setEnabled(True)
        self.preview_button.setText("&Preview")
