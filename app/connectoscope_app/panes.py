"""The viewers in the middle: one pane, or two that are linked (:mod:`connectoscope_app.comparison`).

A pane is a :class:`napari.qt.QtViewer` on its own ``ViewerModel``. What belongs to a pane (layer list, controls) is
stacked in a dock of the window and switched with the active pane.
"""

from __future__ import annotations

from collections.abc import Callable

from napari._app_model import get_app_model
from napari.components import LayerList, ViewerModel
from napari.qt import QtViewer
from qtpy.QtCore import QCoreApplication, QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QScrollArea, QSizePolicy, QSplitter, QStackedWidget, QVBoxLayout, QWidget
from superqt import QElidingLabel

from connectoscope_app.slices import SliceRelay
from connectoscope_app.theme import COLOURS

_LINE = 7  # pixels of the line between two panes: it must be easy to catch
_MARGIN = 8  # pixels beside a title
_LEAST = 32  # pixels of a pane that are always left to be seen


class LayerPanel(QWidget):
    """Layer list, its buttons and the controls of the selected layer, for one pane."""

    def __init__(self, pane: QtViewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        controls = QScrollArea()
        controls.setWidgetResizable(True)
        controls.setFrameShape(QScrollArea.Shape.NoFrame)
        controls.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        controls.setWidget(pane.controls)
        self._controls, self._pane = controls, pane
        pane.viewer.layers.events.inserted.connect(self._fit_controls)
        listing = QWidget()
        column = QVBoxLayout(listing)
        column.setContentsMargins(8, 2, 8, 4)
        column.setSpacing(2)
        column.addWidget(pane.layerButtons)
        column.addWidget(pane.layers, 1)
        column.addWidget(pane.viewerButtons)
        pane.viewerButtons.consoleButton.hide()  # a console on our process is not offered yet
        pane.layers.setMinimumHeight(70)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.addWidget(listing)
        splitter.addWidget(controls)
        splitter.setSizes([260, 240])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(splitter)

    def _fit_controls(self, _event: object) -> None:
        """Each kind of layer has controls of its own width: never cut them."""
        scroll_bar = self._controls.verticalScrollBar().sizeHint().width()
        self._controls.setMinimumWidth(self._pane.controls.minimumSizeHint().width() + scroll_bar)


class Slot(QWidget):
    """A pane under its title, or what of it lies on this side of the line."""

    resized = Signal()

    def __init__(self, pane: QtViewer) -> None:
        super().__init__()
        self.pane = pane
        self.setMinimumWidth(_LEAST)
        self.title = QElidingLabel()
        self.title.setContentsMargins(_MARGIN, 3, _MARGIN, 3)
        self.title.setEllipsesWidth(2 * _MARGIN + 4)
        self.title.hide()
        self.frame = QWidget()
        self.frame.installEventFilter(self)
        pane.setParent(self.frame)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.title)
        layout.addWidget(self.frame, 1)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        if event.type() == QEvent.Type.Resize:
            self.resized.emit()
        return super().eventFilter(watched, event)

    def arrange(self, whole: int | None) -> None:
        """Fill the slot; or be ``whole`` pixels wide, of which the slot shows its part."""
        if whole is None:
            self.pane.setGeometry(self.frame.rect())
        else:
            self.pane.setGeometry(-self.x(), 0, whole, self.frame.height())


class Panes(QWidget):
    """All viewers, side by side; exactly one is active."""

    active_changed = Signal(object)  # QtViewer
    pane_added = Signal(object)  # ViewerModel
    unreadable = Signal(str, str)  # one line, and the store's own words

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(240, 200)
        self.swipes = self.closing = False
        self.layer_panels = QStackedWidget()
        self._splitter = QSplitter(Qt.Orientation.Horizontal, self)
        self._splitter.setChildrenCollapsible(False)
        self._splitter.setHandleWidth(_LINE)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._splitter, 1)
        self._slots: list[Slot] = []
        self._relays: list[SliceRelay] = []
        # napari's own buttons and commands ask its app model for "the viewer": it is the active pane's.
        self._providers = get_app_model().injection_store.register(
            providers=[
                (lambda: self.model, ViewerModel, 1000),
                (lambda: self.model.layers, LayerList, 1000),
            ]
        )
        self._active = self.add_pane()

    def add_pane(self) -> QtViewer:
        """A further viewer on a model of its own, at the right."""
        pane = QtViewer(ViewerModel())
        pane.setAcceptDrops(False)  # the window takes drops: it opens them with units, in a thread
        pane.setContentsMargins(0, 0, 6, 0)
        pane.canvas.native.setMinimumSize(120, 120)
        pane.canvas.native.installEventFilter(self)
        pane.viewer.canvas.overlays.scale_bar.visible = True
        if self._slots:
            pane.viewer.theme = self.models[0].theme
        slot = Slot(pane)
        slot.resized.connect(self._arrange)
        self._slots.append(slot)
        self._relays.append(SliceRelay(pane, self.unreadable.emit))
        self._splitter.addWidget(slot)
        self.layer_panels.addWidget(LayerPanel(pane))
        self.pane_added.emit(pane.viewer)
        return pane

    @property
    def active(self) -> QtViewer:
        return self._active

    @property
    def model(self) -> ViewerModel:
        """The active pane's viewer model."""
        return self._active.viewer

    @property
    def models(self) -> list[ViewerModel]:
        return [slot.pane.viewer for slot in self._slots]

    def activate(self, number: int) -> None:
        """The pane that menus and panels speak of."""
        pane = self._slots[number].pane
        self._active = pane
        self.layer_panels.setCurrentIndex(number)
        for slot in self._slots:
            colour = COLOURS[self.models[0].theme]["current"] if slot.pane is pane else "transparent"
            slot.title.setStyleSheet(f"font-weight: 600; border-bottom: 2px solid {colour};")
        self.active_changed.emit(pane)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """The pane that is clicked is the active one."""
        if event.type() == QEvent.Type.MouseButtonPress:
            for number, slot in enumerate(self._slots):
                if slot.pane.canvas.native is watched:
                    self.activate(number)
        return super().eventFilter(watched, event)

    # -- two of them -----------------------------------------------------------------------------------------
    def show_pair(self, titles: tuple[str, str]) -> None:
        """Both panes side by side, under these titles."""
        for number, title in enumerate(titles):
            self.set_title(number, title)
        if self._slots[1].isHidden() or self._slots[0].title.isHidden():
            self._keep_field(lambda: self._set_pair(True))

    def set_title(self, number: int, title: str) -> None:
        self._slots[number].title.setText(title)
        self._slots[number].title.setToolTip(title)  # where it has no room

    def show_single(self) -> None:
        """The first pane alone."""
        self.activate(0)
        self.swipes = False
        self._keep_field(lambda: self._set_pair(False))

    def set_swipe(self, swipes: bool) -> None:
        """Both panes at the same place, the first one left of a line that can be dragged, the other right of it."""
        self.swipes = swipes
        self._keep_field(self._arrange)

    def _set_pair(self, both: bool) -> None:
        self._slots[1].setVisible(both)
        for slot in self._slots:
            slot.title.setVisible(both)
        half = self._splitter.width() // 2
        self._splitter.setSizes([half, half])

    def _arrange(self) -> None:
        whole = self._splitter.width() if self.swipes else None
        for slot in self._slots:
            slot.arrange(whole)

    def _keep_field(self, change: Callable[[], None]) -> None:
        """Do what makes the panes wider or narrower; what they show stays in view."""
        before = self._slots[0].pane.width()
        change()
        QCoreApplication.sendPostedEvents(self._splitter, QEvent.Type.LayoutRequest)
        self._arrange()
        self.models[0].scene.camera.zoom *= self._slots[0].pane.width() / max(before, 1)

    def clear(self) -> None:
        """Remove all layers."""
        for model in self.models:
            model.layers.clear()

    def set_theme(self, name: str) -> None:
        for model in self.models:
            model.theme = name
        self.activate(self.layer_panels.currentIndex())

    def close_panes(self) -> None:
        """End slicing threads and GL contexts: the layers go first, then the slicer, then the canvas."""
        self.closing = True
        self._providers.cleanup()
        for slot, relay in zip(self._slots, self._relays, strict=True):
            slot.pane.viewer.layers.clear()  # a late refresh of a layer must not find the slicer gone
            slot.pane.viewer._layer_slicer.shutdown()
            relay.close()
            slot.pane.close()
