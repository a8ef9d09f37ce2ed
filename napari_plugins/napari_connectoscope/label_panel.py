"""*Label patches*: from patch to patch, the model's own labels to correct, saved while they are painted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from napari.components import ViewerModel
from napari.layers import Labels, Vectors
from napari.qt import QtViewer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel

from connectoscope.adaptation.labelling import Labelling
from connectoscope.adaptation.patches import Patch
from connectoscope.errors import UserError
from napari_connectoscope.layers import title_of
from napari_connectoscope.patch_layers import (
    colour_frames,
    fly_to_patch,
    frames_layer,
    labels_layer,
    plane_of,
    shows_source,
)
from napari_connectoscope.threads import background, one_line

SAVE_MS = 400  # painting is looked at so often: what a kill can lose at most
_HINT = (
    "Adapt ▸ Suggest Patches chooses patches of your volume that are worth labelling. They can be corrected here: "
    "every voxel counts."
)
_HOW = {
    False: "Paint the {what} and erase everything else, on all planes: every voxel counts.",
    True: "Give each cell a number of its own, and 0 between cells, on all planes: every voxel counts.",
}
_BOXES = "QListWidget::indicator:unchecked { border: 1px solid #8a929e; border-radius: 2px; width: 11px; height: 11px; }"
_KEYS = "2 paint · 1 erase · 4 fill · [ ] size · Ctrl+Z undo · space + drag to move"


class LabelPanel(QWidget):
    """The labelling of one file of patches at a time.

    Args:
        viewer: Where the volume is and the labels are painted.
    """

    volume_wanted = Signal(str)  # the source of the patches, where no layer shows it
    train_wanted = Signal(object)  # parameters of adapt train
    opened = Signal(str)  # path of the patches, when their volume is there
    failed = Signal(str)  # one line

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.viewer = viewer
        self.labelling: Labelling | None = None
        self.layers: dict[tuple[str, str], Labels] = {}  # by output and patch
        self._saving = False
        self._frames: Vectors | None = None
        self._current = -1
        self._make_widgets()
        self._timer = QTimer(self)
        self._timer.setInterval(SAVE_MS)
        self._timer.timeout.connect(self._look)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.flush)
        viewer.layers.events.removed.connect(self._layer_removed)
        viewer.layers.events.inserted.connect(self._layer_inserted)
        viewer.dims.events.point.connect(self._show_plane)
        self._show_session()

    # -- building --------------------------------------------------------------------------------------------
    def _make_widgets(self) -> None:
        self.title = QElidingLabel()
        self.title.setObjectName("heading")
        self.hint = QLabel()
        self.hint.setObjectName("muted")
        self.hint.setWordWrap(True)
        self.output = QComboBox()
        self.output.setAccessibleName("Output that is labelled")
        self.output.activated.connect(lambda _: self._output_chosen())
        self.bar = QProgressBar()
        self.bar.setFormat("%v of %m done")
        self.list = QListWidget()
        self.list.setAccessibleName("Patches")
        self.list.setMinimumHeight(70)
        self.list.setStyleSheet(_BOXES)
        self.list.currentRowChanged.connect(self._row_chosen)
        self.list.itemClicked.connect(self._row_clicked)
        self.list.itemChanged.connect(lambda _: self._ticked())
        self.plane = QLabel()
        self.keys = QLabel(_KEYS)
        self.keys.setObjectName("muted")
        self.keys.setWordWrap(True)
        self.open_button = self._button(
            "Open patches…", "A file of adapt suggest (NAME.patches.json)", self.ask
        )
        self.previous_button = self._button("◀", "Previous patch (Alt+Left)", lambda: self.step(-1))
        self.next_button = self._button("▶", "Next patch (Alt+Right)", lambda: self.step(1))
        self.done_button = self._button(
            "Done, next", "This patch is finished; go to the next that is not (Alt+Return)", self.finish
        )
        self.done_button.setProperty("accent", True)
        for widget in (self.list, self.previous_button, self.next_button, self.done_button):
            widget.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a click leaves the keys to the canvas
        self.train_button = self._button(
            "", "Open the form of Adapt ▸ Train on Patches with these labels", self._train
        )
        self.state = QLabel()
        self.state.setObjectName("muted")
        self.state.setWordWrap(True)
        self.state.setMinimumWidth(1)  # a long name is cut: its tooltip has it whole
        steps = QHBoxLayout()
        steps.addWidget(self.previous_button)
        steps.addWidget(self.next_button)
        steps.addWidget(self.done_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 10)
        layout.setSpacing(8)
        for widget in (self.title, self.hint, self.output, self.list, self.bar, self.plane):
            layout.addWidget(widget, 1 if widget is self.list else 0)
        layout.addLayout(steps)
        for widget in (self.keys, self.state, self.train_button, self.open_button):
            layout.addWidget(widget)
        self.setFocusProxy(self.list)

    def _button(self, text: str, tip: str, slot: Callable[[], None]) -> QPushButton:
        button = QPushButton(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda _=False: slot())
        return button

    # -- a session -------------------------------------------------------------------------------------------
    def ask(self) -> None:
        """Choose a file of patches."""
        path, _ = QFileDialog.getOpenFileName(self, "Open patches", "", "Patches (*.json)")
        if path:
            self.open(path)

    def open(self, path: Path | str) -> None:
        """Label these patches; what was painted before is there again."""
        try:
            labelling = Labelling(Path(path))
            labelling.done(labelling.outputs[0])
        except UserError as error:
            self.failed.emit(str(error))
            return
        there = self.labelling
        if there is not None and (there.path, there.file) == (labelling.path, labelling.file):
            if self._frames is None:  # its volume could not be opened before
                self._want_volume()
            return
        if there is not None and there.path == labelling.path:
            self._drop_all_but([patch for patch in labelling.file.patches if patch in there.file.patches])
        if not self.close_session():
            self.failed.emit(self.state.text())
            return
        self.labelling = labelling
        self._current = -1
        self.output.clear()
        for name in labelling.outputs:
            self.output.addItem(title_of(name), name)
        self._show_session()
        self._want_volume()

    def _want_volume(self) -> None:
        if self.labelling is None:
            return
        source = self.labelling.file.source
        if shows_source(self.viewer, self.labelling.file):
            self._begin()
        else:
            self._say(f"Opening {source.name} …")
            self.volume_wanted.emit(source.path)

    def close_session(self) -> bool:
        """Save everything and take the layers away; False, and all is as it was, where labels cannot be saved."""
        if not self.flush():
            return False
        self._timer.stop()
        self.labelling = None
        mine = [*self.layers.values(), *([self._frames] if self._frames is not None else [])]
        self.layers, self._frames = {}, None
        for layer in mine:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        return True

    def _drop_all_but(self, patches: Sequence[Patch]) -> None:
        """Labels of the others are of patches that are no more: they are not saved."""
        kept = {patch.id for patch in patches}
        for key in [key for key in self.layers if key[1] not in kept]:
            layer = self.layers.pop(key)
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)

    def _show_session(self) -> None:
        """The panel without a file of patches, or with one."""
        there = self.labelling
        for widget in (self.list, self.bar, self.plane, self.keys, self.train_button, self.previous_button,
                       self.next_button, self.done_button):  # fmt: skip
            widget.setVisible(there is not None)
        self.output.setVisible(there is not None and len(there.outputs) > 1)
        self.open_button.setVisible(self._frames is None)
        self.title.setText("Label patches" if there is None else f"Label {there.file.source.name}")
        self.title.setToolTip(self.title.text())  # where it has no room
        if there is None:
            self.hint.setText(_HINT)
            return
        what = title_of(self._output()).lower()
        self.hint.setText(_HOW[there.file.instances].format(what=what))
        done = there.done(self._output())
        self.list.blockSignals(True)
        self.list.clear()
        for patch in there.file.patches:
            item = QListWidgetItem(f"{patch.id}   {' × '.join(map(str, patch.voxels.shape))}")
            item.setFlags(item.flags() | Qt.ItemFlag.ItemIsUserCheckable)
            item.setCheckState(Qt.CheckState.Checked if patch.id in done else Qt.CheckState.Unchecked)
            item.setToolTip("A tick: this patch is finished, and is trained on")
            self.list.addItem(item)
        self.list.blockSignals(False)
        self._show_progress()

    def _begin(self) -> None:
        """The volume is there: frames, and the first patch that is not done."""
        if self.labelling is None or self._frames is not None:
            return
        # The grey box behind the brush is of no use, and in OpenGL by software napari 0.9 crashes when it draws it after
        # a layer that was painted has gone.
        if (brush := self.viewer.canvas.overlays.get("_brush_circle")) is not None:
            brush.box = False
        self._frames = frames_layer(self.labelling.file)
        self.viewer.add_layer(self._frames)
        self.open_button.hide()
        self._say("")
        self._timer.start()
        self.opened.emit(str(self.labelling.path))
        self.go(next(iter(self._waiting()), 0))

    def _output(self) -> str:
        return str(self.output.currentData())

    def _output_chosen(self) -> None:
        self.flush()
        for (output, _), layer in self.layers.items():
            layer.visible = output == self._output()
        row = self._current
        self._show_session()
        self.go(max(row, 0))

    # -- from patch to patch ---------------------------------------------------------------------------------
    def go(self, row: int) -> None:
        """Fly to a patch and take up the brush, with the keys for it."""
        self._fly(row)
        self._focus_canvas()

    def _fly(self, row: int) -> None:
        if self.labelling is None or self._frames is None:
            return
        self._current = row
        self.list.blockSignals(True)
        self.list.setCurrentRow(row)
        self.list.blockSignals(False)
        patch = self.labelling.file.patches[row]
        layer = self._layer(row)
        if layer is None:
            return
        fly_to_patch(self.viewer, self.labelling.file, patch)
        self.viewer.layers.selection.active = layer
        if str(layer.mode) not in ("paint", "erase", "fill", "polygon"):
            layer.mode = "paint"
        self._colour()
        self._show_plane()

    def step(self, by: int) -> None:
        """The next patch, or the one before; round in a circle."""
        if self.labelling is not None:
            self.go((self._current + by) % len(self.labelling.file.patches))

    def finish(self) -> None:
        """This patch is done; go to the next one that is not."""
        if self.labelling is None or self._current < 0:
            return
        self.list.item(self._current).setCheckState(Qt.CheckState.Checked)
        waiting = self._waiting()
        after = [row for row in waiting if row > self._current]
        if waiting:
            self.go(min(after or waiting))

    def _row_chosen(self, row: int) -> None:
        if row >= 0 and row != self._current:
            self._fly(row)  # arrow keys go on through the list

    def _row_clicked(self, item: QListWidgetItem) -> None:
        self._row_chosen(self.list.row(item))
        self._focus_canvas()

    def _focus_canvas(self) -> None:
        """The keyboard to the canvas of the viewer, in whatever window it is."""
        viewer = getattr(self.viewer, "__wrapped__", self.viewer)  # napari hands plugins a proxy
        for window in QApplication.topLevelWidgets():
            for pane in window.findChildren(QtViewer):
                if pane.viewer is viewer:
                    pane.canvas.native.setFocus()

    def _waiting(self) -> list[int]:
        unchecked = Qt.CheckState.Unchecked
        return [row for row in range(self.list.count()) if self.list.item(row).checkState() == unchecked]

    def _done(self) -> set[str]:
        waiting = self._waiting()
        patches = self.labelling.file.patches if self.labelling is not None else ()
        return {patch.id for row, patch in enumerate(patches) if row not in waiting}

    def _ticked(self) -> None:
        if self.labelling is None:
            return
        self.flush()  # what is ticked is on the disk
        try:
            self.labelling.set_done(self._output(), self._done())
        except OSError as error:
            self._save_failed(one_line(error))
        self._show_progress()
        self._colour()

    def _layer(self, row: int) -> Labels | None:
        """The labels of a patch, from their file when they are looked at for the first time."""
        if self.labelling is None:
            return None
        patch, output = self.labelling.file.patches[row], self._output()
        layer = self.layers.get((output, patch.id))
        if layer is None:
            try:
                labels = self.labelling.read(output, patch)
            except UserError as error:
                self.failed.emit(str(error))
                return None
            layer = labels_layer(self.labelling.file, patch, output, labels)
            self.layers[output, patch.id] = layer
        if layer not in self.viewer.layers:
            self.viewer.add_layer(layer)
        layer.visible = True
        return layer

    # -- what is shown ---------------------------------------------------------------------------------------
    def _colour(self) -> None:
        if self._frames is not None and self.labelling is not None and self._current >= 0:
            colour_frames(self._frames, self._done(), self.labelling.file.patches[self._current].id)

    def _show_progress(self) -> None:
        done, count = len(self._done()), self.list.count()
        self.bar.setMaximum(count)
        self.bar.setValue(done)
        patches = "patch" if done == 1 else "patches"
        self.train_button.setText(f"Train on {done} {patches}…" if done else "Train…")
        self.train_button.setEnabled(done > 0)

    def _show_plane(self, _event: object = None) -> None:
        layer = self._current_layer() if isalive(self) else None
        if layer is None:
            return
        plane, count = plane_of(layer, self.viewer), layer.data.shape[0]
        where = f"plane {plane + 1} of {count}" if 0 <= plane < count else "outside of the patch"
        self.plane.setText(f"{layer.metadata['connectoscope']['patch']}: {where}")

    def _current_layer(self) -> Labels | None:
        if self.labelling is None or self._current < 0:
            return None
        return self.layers.get((self._output(), self.labelling.file.patches[self._current].id))

    # -- saving ----------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """Save in a thread what was painted since; one file at a time."""
        labelling = self.labelling
        if self._saving or labelling is None:
            return
        changed = ((k, la) for k, la in self.layers.items() if not labelling.is_saved(*k, la.data))
        key, layer = next(changed, (None, None))
        if key is None or layer is None:
            return
        self._saving = True

        def saved(_: object) -> None:
            self._saving = False
            self._show_saved()

        def failed(line: str) -> None:
            self._saving = False
            self._save_failed(line)

        background(self, lambda: labelling.save(*key, layer.data), saved, failed)

    def flush(self) -> bool:
        """Save now what is not saved yet; whether all of it is on the disk."""
        if self.labelling is None:
            return True
        failed: OSError | None = None
        for key, layer in self.layers.items():
            try:
                self.labelling.save(*key, layer.data)
            except OSError as error:
                failed = error
        if failed is not None:
            self._save_failed(one_line(failed))
            return False
        self._show_saved()
        return True

    def _show_saved(self) -> None:
        if self.labelling is not None:
            self._say(
                f"Saved in {self.labelling.folder.name}, beside the patches", str(self.labelling.folder)
            )

    def _save_failed(self, line: str) -> None:
        self._say(f"Labels are not saved yet: {line}")

    def _say(self, text: str, tip: str = "") -> None:
        self.state.setText(text)
        self.state.setToolTip(tip or text)

    def may_close(self) -> bool:
        """Save; where that fails, ask whether the window may close and labels be lost. In doubt they are kept."""
        if self.flush():
            return True
        buttons = QMessageBox.StandardButton
        line = (
            f"{self.state.text()}\n\nThey are saved once there is room on the disk and the folder is writable. "
            "Close anyway and lose the unsaved labels?"
        )
        answer = QMessageBox.question(
            self.window(), "Connectoscope", line, buttons.Close | buttons.Cancel, buttons.Cancel
        )
        return bool(answer == buttons.Close)

    def _train(self) -> None:
        if self.labelling is not None:
            self.flush()
            self.train_wanted.emit(self.labelling.training(self._output()))

    # -- the viewer ------------------------------------------------------------------------------------------
    def _layer_inserted(self, event: Any) -> None:
        waits = isalive(self) and self.labelling is not None and self._frames is None
        if waits and shows_source(self.viewer, self.labelling.file):
            QTimer.singleShot(0, self._begin)  # after the view has been fitted to the volume

    def _layer_removed(self, event: Any) -> None:
        """Labels that are taken away are saved; their patch is read again when it is next gone to."""
        if not isalive(self):
            return
        key = next((k for k, layer in self.layers.items() if layer is event.value), None)
        if key is not None and self.flush():
            del self.layers[key]
        if event.value is self._frames and self._frames is not None:
            self._frames = None
            session = self.labelling
            QTimer.singleShot(
                0, self, lambda: self._end(session)
            )  # after napari, which may be taking more away

    def _end(self, session: Labelling | None) -> None:
        """The session went with its frames; both are there again where its labels cannot be saved."""
        if self._frames is not None or self.labelling is not session:  # begun again meanwhile, or another one
            return
        if not self.close_session():
            self.failed.emit(self.state.text())
            self._begin()
        self._show_session()

    # -- the window ------------------------------------------------------------------------------------------
    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self.window().installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """What was painted just before its window is closed is saved: nobody looks again."""
        if event.type() == QEvent.Type.Close:
            self.flush()
        return False
