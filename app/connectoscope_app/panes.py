"""The viewers in the middle: one pane now; linked panes are added here without the window noticing.

A pane is a :class:`napari.qt.QtViewer` on its own ``ViewerModel``. What belongs to a pane (layer list, controls) is
stacked in a dock of the window and switched with the active pane.
"""

from __future__ import annotations

from napari._app_model import get_app_model
from napari.components import LayerList, ViewerModel
from napari.qt import QtViewer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QScrollArea, QSizePolicy, QSplitter, QStackedWidget, QVBoxLayout, QWidget

from connectoscope_app.slices import SliceRelay


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


class Panes(QWidget):
    """All viewers, side by side; exactly one is active."""

    active_changed = Signal(object)  # QtViewer

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(240, 200)
        self.layer_panels = QStackedWidget()
        self._splitter = QSplitter(Qt.Orientation.Horizontal, self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._splitter)
        self._panes: list[QtViewer] = []
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
        pane.viewer.canvas.overlays.scale_bar.visible = True
        self._panes.append(pane)
        self._relays.append(SliceRelay(pane))
        self._splitter.addWidget(pane)
        self.layer_panels.addWidget(LayerPanel(pane))
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
        return [pane.viewer for pane in self._panes]

    def activate(self, pane: QtViewer) -> None:
        self._active = pane
        self.layer_panels.setCurrentIndex(self._panes.index(pane))
        self.active_changed.emit(pane)

    def set_theme(self, name: str) -> None:
        for model in self.models:
            model.theme = name

    def close_panes(self) -> None:
        """End slicing threads and GL contexts; the order matters (specs: close cleanly)."""
        self._providers.cleanup()
        for pane, relay in zip(self._panes, self._relays, strict=True):
            pane.viewer.layers.clear()  # a late refresh of a layer must not find the slicer gone
            pane.viewer._layer_slicer.shutdown()
            relay.close()
            pane.close()
