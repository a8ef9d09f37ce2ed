"""Plots of a job: whole ones (``plot`` events) and curves that grow while it runs (``metric`` events)."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from napari.settings import get_settings
from napari.utils.theme import get_system_theme, get_theme
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

Points = list[tuple[float, float]]

_REDRAW_MS = 200  # a training tells its steps faster than anybody reads
_FEW = 60  # series of no more points show each of them
_COLOURS = {  # told apart by all eyes (after Okabe and Ito), on dark and on light ground
    True: ("#56b4e9", "#e69f00", "#35c79a", "#e48fc0", "#ff7f50", "#f0e442", "#9aa4ff"),
    False: ("#0072b2", "#c96f00", "#00805d", "#b5528b", "#8a7a00", "#c8400a", "#4450c8"),
}
_STAR = {True: "#ffffff", False: "#111111"}


@dataclass
class Plot:
    """What is drawn: series of (x, y) by label, and points that stand out."""

    name: str
    x: str = ""
    y: str = ""
    series: dict[str, Points] = field(default_factory=dict)
    marked: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Plot:
        """The plot of a ``plot`` event; what is not a number in it is left out."""
        series = {str(label): _points(values) for label, values in (event.get("series") or {}).items()}
        marked = {
            str(label): points[0]
            for label, one in (event.get("marked") or {}).items()
            if (points := _points([one]))
        }
        return cls(str(event["name"]), str(event.get("x", "")), str(event.get("y", "")), series, marked)

    def grow(self, event: Mapping[str, Any]) -> None:
        """Append the values of a ``metric`` event at its step; what a run told before it was resumed gives way."""
        self.x, step = "step", float(event["step"])
        for label, value in event["values"].items():
            points = self.series.setdefault(str(label), [])
            while points and points[-1][0] >= step:
                points.pop()
            if isinstance(value, int | float):
                points.append((step, float(value)))


def _points(values: Any) -> Points:
    """(x, y) pairs; of plain numbers x is their place."""
    pairs = [v if isinstance(v, list | tuple) else (i, v) for i, v in enumerate(values)]
    return [(float(p[0]), float(p[1])) for p in pairs if len(p) >= 2 and None not in (p[0], p[1])]


class PlotView(QWidget):
    """One plot, in the colours of napari's theme. A click on a name below it hides the line.

    pyqtgraph comes with the extra ``[desktop]`` and is imported when the first plot is shown.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plot: Plot | None = None
        self._widget: Any = None
        self._lines: dict[str, Any] = {}
        self._hidden: set[str] = set()
        self._marks: list[Any] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REDRAW_MS)
        self._timer.timeout.connect(self.redraw)
        self.hint = QLabel("Plots of a job appear here.")
        self.hint.setObjectName("muted")
        self.hint.setWordWrap(True)
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(2)
        self._layout.addWidget(self.hint)
        self.legend = QLabel()  # below the plot: inside it would cover curves
        self.legend.setWordWrap(True)
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.legend.setTextInteractionFlags(
            Qt.TextInteractionFlag.LinksAccessibleByMouse | Qt.TextInteractionFlag.LinksAccessibleByKeyboard
        )
        self.legend.setToolTip("Click a name to hide its line, or to show it again")
        self.legend.linkActivated.connect(self._toggle)
        self._layout.addWidget(self.legend)
        self.legend.hide()

    def show_plot(self, plot: Plot) -> None:
        """Show another plot, all of it."""
        self.plot = plot
        if self._widget is None and not self._make():
            return
        self._widget.clear()
        self._lines, self._marks, self._hidden = {}, [], set()
        self._widget.enableAutoRange()
        self._colour()  # redraws

    def changed(self) -> None:
        """The shown plot has grown: it is drawn again soon."""
        if not self._timer.isActive():
            self._timer.start()

    def _make(self) -> bool:
        try:
            import pyqtgraph
        except ImportError:
            self.hint.setText("Plots need pyqtgraph: pip install 'connectoscope[desktop]'")
            return False
        self.hint.hide()
        self._widget = pyqtgraph.PlotWidget(antialias=True, enableMenu=False)
        menu = self._widget.plotItem.ctrlMenu  # made in any case: it must go with us
        menu.setParent(self, menu.windowFlags())
        self._widget.setAccessibleName("Plot")
        for side in ("left", "bottom"):
            self._widget.getAxis(side).enableAutoSIPrefix(False)  # 0.25, not 250 (x0.001)
        self._widget.showGrid(x=True, y=True, alpha=0.15)
        self._layout.insertWidget(0, self._widget, 1)
        return True

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange and self._widget is not None:
            self._colour()

    def _colour(self) -> None:
        theme = _theme()
        text = theme.text.as_hex()
        self._widget.setBackground(theme.console.as_hex())
        for side in ("left", "bottom"):
            axis = self._widget.getAxis(side)
            axis.setPen(theme.secondary.as_hex())
            axis.setTextPen(text)
        for line in self._lines.values():
            self._widget.removeItem(line)
        self._lines = {}
        self.redraw()

    def redraw(self) -> None:
        """Draw what the plot holds now; zoom and hidden lines stay."""
        if self.plot is None or self._widget is None:
            return
        import pyqtgraph

        self._widget.setLabel("bottom", self.plot.x)
        self._widget.setLabel("left", self.plot.y)
        dark = _is_dark()
        for number, (label, points) in enumerate(self.plot.series.items()):
            xy = np.array(points, dtype=float).reshape(-1, 2)
            if label in self._lines:
                self._lines[label].setData(xy[:, 0], xy[:, 1])
                continue
            colour = _COLOURS[dark][number % len(_COLOURS[dark])]
            to_and_fro = bool((np.diff(xy[:, 0]) < 0).any() and (np.diff(xy[:, 0]) > 0).any())
            dots = to_and_fro or len(xy) <= _FEW
            self._lines[label] = self._widget.plot(
                xy[:, 0],
                xy[:, 1],
                pen=None if to_and_fro else pyqtgraph.mkPen(colour, width=2),
                symbol="o" if dots else None,
                symbolSize=5,
                symbolBrush=colour,
                symbolPen=None,
            )
            self._lines[label].setVisible(label not in self._hidden)
        self._show_legend()
        for mark in self._marks:
            self._widget.removeItem(mark)
        self._marks = [
            mark for label, point in self.plot.marked.items() for mark in self._star(label, point, dark)
        ]

    def _show_legend(self) -> None:
        colours, text = _COLOURS[_is_dark()], _theme().text.as_hex()
        names = []
        for number, label in enumerate(self.plot.series if self.plot is not None else ()):
            line = "line-through" if label in self._hidden else "none"
            name = html.escape(label).replace(" ", "&nbsp;")
            names.append(
                f'<span style="color:{colours[number % len(colours)]}">●</span>&nbsp;'
                f'<a href="{number}" style="color:{text};text-decoration:{line}">{name}</a>'
            )
        self.legend.setText("&nbsp;&nbsp; ".join(names))
        self.legend.setVisible(bool(names))

    def _toggle(self, number: str) -> None:
        """Hide a line, or show it again."""
        label = list(self._lines)[int(number)]
        self._hidden ^= {label}
        self._lines[label].setVisible(label not in self._hidden)
        self._show_legend()

    def _star(self, label: str, point: tuple[float, float], dark: bool) -> list[Any]:
        import pyqtgraph

        star = pyqtgraph.ScatterPlotItem(
            [point[0]], [point[1]], symbol="star", size=20, brush=_theme().warning.as_hex(), pen=_STAR[dark]
        )
        star.setZValue(10)
        words = pyqtgraph.TextItem(label, color=_STAR[dark], anchor=(0.5, -0.5))
        words.setPos(*point)
        words.setZValue(10)
        for item in (star, words):
            self._widget.addItem(item, ignoreBounds=item is words)
        return [star, words]


def _theme() -> Any:
    name = get_settings().appearance.theme
    return get_theme(get_system_theme() if name == "system" else name)


def _is_dark() -> bool:
    red, green, blue = _theme().console.as_rgb_tuple()[:3]
    return bool(red + green + blue < 384)
