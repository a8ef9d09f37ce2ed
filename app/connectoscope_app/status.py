"""The right end of the status bar: where the pointer is, and what the colours of a cascade's map mean."""

from __future__ import annotations

from typing import Any

from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QLabel, QStatusBar

from connectoscope.volumes.geometry import unit_symbol
from napari_connectoscope.cascade_map import legend_html, map_shown, meaning_at


class PlaceStatus(QObject):
    """Two labels in ``bar`` that follow the viewers they are given."""

    def __init__(self, bar: QStatusBar) -> None:
        super().__init__(bar)
        self._models: list[ViewerModel] = []
        self.legend = QLabel(legend_html())
        self.legend.hide()
        self.position = QLabel()
        for label in (self.legend, self.position):
            bar.addPermanentWidget(label)

    def follow(self, model: ViewerModel) -> None:
        """Tell of this viewer as well."""
        self._models.append(model)
        model.layers.events.inserted.connect(self._inserted)
        model.layers.events.removed.connect(self._show_legend)
        model.cursor.events.position.connect(lambda _event: self._show_position(model))

    def _inserted(self, event: Any) -> None:
        event.value.events.visible.connect(self._show_legend)
        self._show_legend()

    def _show_legend(self, _event: object = None) -> None:
        self.legend.setVisible(any(map_shown(model) is not None for model in self._models))

    def _show_position(self, model: ViewerModel) -> None:
        units = model.layers.units
        position = model.cursor.position[-3:]
        if not units or len(position) < 2:
            self.position.clear()
            return
        symbol = unit_symbol(str(units[-1]))
        numbers = "   ".join(f"{a} {p:,.0f}" for a, p in zip("zyx"[-len(position) :], position, strict=True))
        region = meaning_at(model)
        told = f"{region} region" if region else value_text(model)
        self.position.setText((f"{told}   " if told else "") + f"{numbers} {symbol}".replace(",", "\u202f"))


def value_text(model: ViewerModel) -> str:
    """``Neurons 12``: what the selected image or labels hold under the pointer, of the slice in memory; '' for none."""
    layer = model.layers.selection.active
    if not isinstance(layer, Image) and not isinstance(layer, Labels):
        return ""
    units = model.layers.units
    if (
        not layer.loaded
        or model.dims.ndisplay != 2
        or units is None
        or tuple(layer.units) != tuple(units[-layer.ndim :])
    ):
        return ""
    value = layer.get_value(model.cursor.position, dims_displayed=list(model.dims.displayed), world=True)
    if isinstance(value, tuple):  # of several levels: the level, and the value
        value = value[1]
    if value is None:
        return ""
    if layer.dtype.kind == "f":
        return f"{layer.name} {value:.4g}"
    return f"{layer.name} {value}"
