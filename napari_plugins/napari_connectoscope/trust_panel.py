"""Where to believe a reconstruction: the colours of its uncertainty, what they mean, and a threshold of trust."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QLinearGradient, QPainter, QPaintEvent, QResizeEvent
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QLabel,
    QLayoutItem,
    QPushButton,
    QSizePolicy,
    QSlider,
    QWidget,
)

from connectoscope.segmentation.trust import trusted_sd
from connectoscope.volumes import read_marks
from napari_connectoscope.sources import layer_facts
from napari_connectoscope.trust import COVER, SHADES, STEP, TITLES, reliability_plot, scale_end

_STEPS = 200  # of the slider
_INSET = 8  # pixels: half a slider's handle, so that colours and handle are at the same place
_GROUND = QColor(128, 128, 128)  # what lies under the colours: EM of middle intensity
_BAR, _TICK = 14, 4  # heights in pixels
_WIDE, _NARROW = 4, 2  # columns
_OVERLAYS = (
    ("total", "Total uncertainty", "Both together: √(aleatoric² + epistemic²)"),
    ("aleatoric", "Left open by the scan", "Aleatoric: blur and noise hide it"),
    (
        "epistemic",
        "Unknown to the model",
        "Epistemic: where the networks disagree, because they were not trained on anything like it",
    ),
    ("", "No colours", "EM alone"),
)


class ColourBar(QWidget):
    """The colours of the uncertainty, with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.end = 1.0
        self.trusted: float | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(180)

    def sizeHint(self) -> QSize:  # noqa: N802
        return QSize(320, _BAR + _TICK + self.fontMetrics().height())

    def set_end(self, end: float) -> None:
        """The sd at the right end."""
        self.end = end
        self.update()

    def set_trusted(self, sd: float | None) -> None:
        """Beyond this sd EM is covered; None: nowhere."""
        self.trusted = sd
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        painter = QPainter(self)
        bar = QRectF(_INSET, 0, self.width() - 2 * _INSET, _BAR)
        gradient = QLinearGradient(bar.topLeft(), bar.topRight())
        for place, (red, green, blue, alpha) in zip(np.linspace(0, 1, len(SHADES)), SHADES, strict=True):
            gradient.setColorAt(float(place), QColor.fromRgbF(red, green, blue, alpha))
        painter.fillRect(bar, _GROUND)
        painter.fillRect(bar, gradient)
        if self.trusted is not None:
            covered = bar.adjusted(self.trusted / self.end * bar.width(), 0, 0, 0)
            painter.fillRect(covered, QColor.fromRgbF(*COVER))
        painter.setPen(self.palette().windowText().color())
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            x = bar.left() + share * bar.width()
            painter.drawLine(round(x), _BAR, round(x), _BAR + _TICK)
            text = f"{share * self.end:.3f}".rstrip("0").rstrip(".") + (" +" if share == 1 else "")
            width = self.fontMetrics().horizontalAdvance(text)
            left = min(max(x - width / 2, 0), self.width() - width)
            painter.drawText(round(left), _BAR + _TICK + self.fontMetrics().ascent(), text)
        painter.end()


class TrustPanel(QWidget):
    """For the reconstruction in ``viewer`` that was added last.

    ``plot_wanted`` carries the reliability plot of its model as a ``plot`` event.
    """

    plot_wanted = Signal(object)

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.overlay = QComboBox()
        self.overlay.setAccessibleName("Uncertainty in colour")
        for row, (part, title, tip) in enumerate(_OVERLAYS):
            self.overlay.addItem(title, part)
            self.overlay.setItemData(row, tip, Qt.ItemDataRole.ToolTipRole)
        self.overlay.activated.connect(lambda _: self._show_overlay())
        self.colours = ColourBar()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, _STEPS)
        self.slider.setValue(_STEPS)
        self.slider.setAccessibleName("Show only what is trusted to")
        self.slider.valueChanged.connect(lambda _: self._cover())
        self.said = QLabel()
        self.said.setMinimumWidth(self.fontMetrics().horizontalAdvance("no reconstruction yet"))
        self.plot_button = QPushButton("Reliability…")
        self.plot_button.setToolTip("How often the model's intervals held the truth, from its card")
        self.plot_button.clicked.connect(lambda _=False: self._tell_plot())
        self._columns = _WIDE
        self.rows = QGridLayout(self)
        self.rows.setContentsMargins(8, 6, 8, 6)
        self.rows.setHorizontalSpacing(10)
        trusted = QLabel("Show only what is trusted to")
        trusted.setBuddy(self.slider)
        above = (self.overlay, self.colours, QLabel("sd of EM intensity, 0–1"), self.plot_button)
        for column, widget in enumerate(above):
            self.rows.addWidget(widget, 0, column)
        for column, widget in enumerate((trusted, self.slider, self.said)):
            self.rows.addWidget(widget, 1, column)
        self.rows.setColumnStretch(1, 1)
        viewer.layers.events.inserted.connect(self._inserted)
        viewer.layers.events.removed.connect(self._layers_changed)
        for layer in viewer.layers:
            layer.events.visible.connect(self._see_overlay)
        self._layers_changed()

    # -- as wide as there is room ----------------------------------------------------------------------------
    def minimumSizeHint(self) -> QSize:  # noqa: N802
        return QSize(self._width_in(_NARROW), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Two rows of four; where that is too wide, four of two."""
        super().resizeEvent(event)
        columns = _WIDE if self.width() >= self._width_in(_WIDE) else _NARROW
        if columns != self._columns:
            cells = self._cells()
            self._columns = columns
            for number, item in cells:
                self.rows.addWidget(item.widget(), *divmod(number, columns))

    def _cells(self) -> list[tuple[int, QLayoutItem]]:
        """What is in the grid, with its place when counted row by row."""
        places = (self.rows.getItemPosition(i)[:2] for i in range(self.rows.count()))
        return [(row * self._columns + column, self.rows.itemAt(i)) for i, (row, column) in enumerate(places)]

    def _width_in(self, columns: int) -> int:
        """Pixels that are needed at least."""
        widths = [0] * columns
        for number, item in self._cells():
            widths[number % columns] = max(widths[number % columns], item.minimumSize().width())
        margins = self.rows.contentsMargins()
        gaps = (columns - 1) * self.rows.horizontalSpacing()
        return sum(widths) + gaps + margins.left() + margins.right()

    # -- what is shown ---------------------------------------------------------------------------------------
    @property
    def sd(self) -> float | None:
        """The threshold; None: everything is shown."""
        value = self.slider.value()
        return None if value == _STEPS else value / _STEPS * self.colours.end

    def _parts(self) -> dict[str, Layer]:
        """The layers of the reconstruction at hand."""
        ours = [layer for layer in self.viewer.layers if layer_facts(layer).get("part") in TITLES]
        path = layer_facts(ours[-1])["result"] if ours else None
        return {layer_facts(one)["part"]: one for one in ours if layer_facts(one)["result"] == path}

    def _inserted(self, event: Any) -> None:
        event.value.events.visible.connect(self._see_overlay)
        self._layers_changed()

    def _layers_changed(self, _event: object = None) -> None:
        if not isalive(self):
            return
        parts = self._parts()
        self.setEnabled(bool(parts))
        if parts:
            marks = read_marks(layer_facts(next(iter(parts.values())))["result"])
            self.colours.set_end(scale_end(marks))
            self.slider.setToolTip(
                "EM whose standard deviation is larger is covered. When the model was checked, 99 % of the voxels "
                f"stayed below {trusted_sd(marks):.2f}"
            )
        self._see_overlay()
        self._cover()

    def _see_overlay(self, _event: object = None) -> None:
        """The choice says what is shown, also where it was chosen in the layer list."""
        if isalive(self):
            shown = [part for part, layer in self._parts().items() if layer.visible]
            row = next((row for row, (part, *_) in enumerate(_OVERLAYS) if part in shown), len(_OVERLAYS) - 1)
            self.overlay.setCurrentIndex(row)

    def _show_overlay(self) -> None:
        chosen, parts = self.overlay.currentData(), self._parts()
        for part, *_ in _OVERLAYS:
            if part in parts:
                parts[part].visible = part == chosen

    def _cover(self) -> None:
        sd = self.sd
        self.colours.set_trusted(sd)
        cover = self._parts().get("cover")
        shown = "everything is shown" if sd is None else f"sd up to {sd:.3f}"
        self.said.setText("no reconstruction yet" if cover is None else shown)
        if cover is not None:
            if sd is not None:
                cover.contrast_limits = (sd, sd + STEP)
            cover.visible = sd is not None

    def _tell_plot(self) -> None:
        path = layer_facts(next(iter(self._parts().values())))["result"]
        self.plot_wanted.emit(reliability_plot(read_marks(path)))
