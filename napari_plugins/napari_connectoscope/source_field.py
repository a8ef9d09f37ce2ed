"""The input for a task's source: a layer of the viewer, or whatever can be opened."""

from __future__ import annotations

import weakref
from typing import Any

from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from qtpy.compat import isalive
from qtpy.QtWidgets import QComboBox, QSizePolicy, QToolButton

from napari_connectoscope.fields import Field, open_menu
from napari_connectoscope.sources import LAYER_PREFIX, is_source, source_of


class SourceField(Field):
    """An image layer of the viewer, or a typed file, folder, URL or ``sample:NAME``."""

    def __init__(self, viewer: ViewerModel | None) -> None:
        super().__init__()
        self._viewer = viewer
        self._chosen: weakref.ref[Layer] | None = None  # the layer that the text means
        self.combo = QComboBox()
        self.combo.setEditable(True)
        self.combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.combo.setMinimumContentsLength(12)  # a long name is scrolled, and pushes nothing out of the form
        self.combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.combo.lineEdit().setPlaceholderText("layer, file, folder, URL or sample:NAME")
        self._add(self.combo, 1)
        button = QToolButton()
        button.setText("…")
        button.setToolTip("Choose a file or a folder")
        button.setMenu(open_menu(button, lambda path: self.set_value(path) if path else None))
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._add(button)
        if viewer is not None:
            for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
                event.connect(self._list_layers)
            viewer.layers.selection.events.active.connect(self._follow_selection)
        self.combo.currentTextChanged.connect(lambda _: self._text_changed())
        self._list_layers()
        self._follow_selection()

    def _layers(self) -> list[Image]:
        """Images that are sources, not our own results, but for EM that was made from X-ray."""
        layers = list(self._viewer.layers) if self._viewer is not None else []
        return [la for la in layers if isinstance(la, Image) and not la.rgb and is_source(la)]

    def _text_changed(self) -> None:
        layer = self.layer()
        self._chosen = weakref.ref(layer) if layer is not None else None
        self.changed.emit()

    def _list_layers(self, event: Any = None) -> None:
        """A layer that is renamed stays the source, one that has gone does not."""
        if not isalive(self):
            return
        layers, before = self._layers(), self.combo.currentText()
        chosen = self._chosen() if self._chosen is not None else None
        text = before
        if self._chosen is not None:
            text = chosen.name if chosen in layers else ""
        for layer in layers:
            layer.events.name.connect(self._list_layers)  # once, however often it is said
        self.combo.blockSignals(True)
        self.combo.clear()
        self.combo.addItems([layer.name for layer in layers])
        self.combo.setCurrentText(before)
        self.combo.blockSignals(False)
        text = text or (layers[-1].name if layers else "")
        if text != before:
            self.combo.setCurrentText(text)

    def _follow_selection(self, event: Any = None) -> None:
        """The selected image is the source, until the user typed something that is no layer."""
        if not isalive(self) or self._viewer is None:
            return
        active = self._viewer.layers.selection.active
        if active in self._layers() and (self.layer() is not None or not self.combo.currentText()):
            self.combo.setCurrentText(active.name)

    def layer(self) -> Layer | None:
        """The chosen layer, None when a file or URL is typed."""
        text = self.combo.currentText()
        return next((layer for layer in self._layers() if layer.name == text), None)

    def why_empty(self) -> str:
        """What keeps the selected layer from being the source; '' where none is selected, or it is no picture."""
        active = self._viewer.layers.selection.active if self._viewer is not None else None
        if isinstance(active, Labels):
            return f"'{active.name}' is labels: tasks read images, so choose or open one"
        if isinstance(active, Image) and active.rgb:
            return f"'{active.name}' is a colour image: tasks read one intensity a voxel, so convert it to greyscale"
        return ""

    def value(self) -> str:
        layer = self.layer()
        if layer is None:
            return str(self.combo.currentText().strip())
        return source_of(layer) or f"{LAYER_PREFIX}{layer.name}"

    def set_value(self, value: Any) -> None:
        text = "" if value is None else str(value)
        for layer in self._layers():
            if text in (source_of(layer), f"{LAYER_PREFIX}{layer.name}"):
                text = layer.name
                break
        self.combo.setCurrentText(text)
