"""The right end of the status bar: where the pointer is, and what the colours of a cascade's map mean."""

from __future__ import annotations

from typing import Any

from napari.components import ViewerModel
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
        cell = meaning_at(model)
        self.position.setText(
            (f"{cell} cell   " if cell else "") + f"{numbers} {symbol}".replace(",", "\u202f")
        )
