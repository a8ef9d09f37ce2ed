"""Tables of objects (``tables/<target>.csv``): sortable, and a row leads to its place in the viewer."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QVBoxLayout, QWidget
from superqt import QElidingLabel

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import NANOMETRES, Float3, canonical_unit, unit_symbol
from napari_connectoscope.sources import look_at

_TITLES = {
    "volume_nm3": "Volume (nm³)",
    "mean_probability": "Mean probability",
    "id": "Object",
    "mean_sd": "Mean sd",
    "max_sd": "Largest sd",
}
_DOUBT = QColor("#e08a2e")  # to be read on light and dark
_LENGTHS = frozenset({"z", "y", "x", "radius"})
_MEASURED = 100  # rows whose widths are looked at: a table may have millions
_HIDDEN = frozenset({"unit", "z0", "z1", "y0", "y1", "x0", "x1"})  # the box is for programs


@dataclass(frozen=True)
class Table:
    """A CSV with its numbers read: ``rows[i][j]`` belongs to ``columns[j]``."""

    columns: tuple[str, ...]
    rows: list[list[Any]]


def read_table(path: Path) -> Table:
    """Read a CSV with a header line.

    Raises:
        UserError: when it cannot be read or has no header.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"table {path} cannot be read ({error})") from None
    if not lines:
        raise UserError(f"table {path} is empty: a header line was expected")
    columns = tuple(lines[0])
    rows = [line + [""] * (len(columns) - len(line)) for line in lines[1:] if line]  # one may be cut short
    return Table(columns, [[_number(text) for text in row] for row in rows])


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _shown_number(value: float) -> str:
    """As a person reads it: whole from a thousand on, else four digits; never in powers of ten."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.6f}"


class TableModel(QAbstractTableModel):
    """A :class:`Table` for Qt; sorts its rows itself, by value."""

    def __init__(self, table: Table, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.table = table
        self._shown = [j for j, name in enumerate(table.columns) if name not in _HIDDEN]
        self._order = list(range(len(table.rows)))

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self.table.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self._shown)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        value = self.table.rows[self._order[index.row()]][self._shown[index.column()]]
        if self.table.columns[self._shown[index.column()]] == "trusted" and value == "no":
            if role == Qt.ItemDataRole.ForegroundRole:
                return _DOUBT
            if role == Qt.ItemDataRole.ToolTipRole:
                return "The image under this object is more uncertain than 99 % of the voxels that its model was checked on"
        number = isinstance(value, int | float)
        if role == Qt.ItemDataRole.DisplayRole:
            return _shown_number(value) if number else value
        if role == Qt.ItemDataRole.TextAlignmentRole and number:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        if orientation != Qt.Orientation.Horizontal or role != Qt.ItemDataRole.DisplayRole:
            return None
        name = self.table.columns[self._shown[section]]
        title = _TITLES.get(name, name if name in ("z", "y", "x") else name.replace("_", " ").capitalize())
        if name in _LENGTHS and self.table.rows and "unit" in self.table.columns:
            return f"{title} ({unit_symbol(self.table.rows[0][self.table.columns.index('unit')])})"
        return title

    def sort(self, column: int, order: Any = Qt.SortOrder.AscendingOrder) -> None:
        if not 0 <= column < len(self._shown):
            return
        self.layoutAboutToBeChanged.emit()
        kept = self.persistentIndexList()  # what is selected, say: it stays with its object
        objects = [self._order[index.row()] for index in kept]
        j = self._shown[column]
        self._order = self._sorted(j, order == Qt.SortOrder.DescendingOrder)
        if kept:
            rows = {number: row for row, number in enumerate(self._order)}
            moved = [self.index(rows[n], index.column()) for n, index in zip(objects, kept, strict=True)]
            self.changePersistentIndexList(kept, moved)
        self.layoutChanged.emit()

    def _sorted(self, j: int, falling: bool) -> list[int]:
        """The rows in the order of a column, equal ones as they are now; quick where it is of numbers."""
        values = [self.table.rows[i][j] for i in self._order]
        numbers = np.array(values)
        if numbers.dtype.kind in "iuf":
            found = np.argsort(numbers[::-1] if falling else numbers, kind="stable")
            places = (len(values) - 1 - found[::-1] if falling else found).tolist()
        else:
            places = sorted(
                range(len(values)), key=lambda k: (isinstance(values[k], str), values[k]), reverse=falling
            )
        return [self._order[k] for k in places]

    def row(self, row: int) -> dict[str, Any]:
        """The values of a shown row by column name, hidden ones included."""
        return dict(zip(self.table.columns, self.table.rows[self._order[row]], strict=False))


class ObjectTable(QWidget):
    """The objects of a result; clicking a row (or Enter on it) tells where it lies, by the columns z, y, x and unit."""

    activated = Signal(object, str)  # world position (z, y, x), its unit
    selected = Signal(object)  # the row, by column name

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.view = QTableView()
        self.view.setSortingEnabled(True)
        self.view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.view.setAlternatingRowColors(True)
        self.view.verticalHeader().hide()
        header = self.view.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setResizeContentsPrecision(_MEASURED)
        header.setStretchLastSection(True)
        self.view.clicked.connect(self._go)
        self.view.activated.connect(self._go)
        layout.addWidget(self.view)
        self.summary = QElidingLabel()
        layout.addWidget(self.summary)
        self.model: TableModel | None = None

    def show_table(self, table: Table, name: str) -> None:
        """Show another table, which was read by :func:`read_table`."""
        old, header = self.model, self.view.horizontalHeader()
        column, order = header.sortIndicatorSection(), header.sortIndicatorOrder()
        self.model = TableModel(table, self)
        if old is None or old.table.columns != self.model.table.columns:
            column, order = 0, Qt.SortOrder.AscendingOrder
        self.view.setModel(self.model)
        self.view.sortByColumn(column, order)
        if old is not None:
            old.deleteLater()
        count = self.model.rowCount()
        self.summary.setText(f"{count:,} object{'' if count == 1 else 's'} · {name}")

    def clear(self) -> None:
        """Show no table."""
        if self.model is not None:
            self.view.setModel(None)
            self.model.deleteLater()
        self.model = None
        self.summary.clear()

    def _go(self, index: QModelIndex) -> None:
        if self.model is None or not index.isValid():
            return
        row = self.model.row(index.row())
        self.selected.emit(row)
        if all(isinstance(row.get(axis), int | float) for axis in "zyx"):
            self.activated.emit((float(row["z"]), float(row["y"]), float(row["x"])), str(row.get("unit", "")))


def fly_to(viewer: ViewerModel, world: Float3, unit: str) -> None:
    """Move the viewer to a world position (z, y, x in ``unit``), keeping its zoom."""
    position = np.asarray(world, dtype=float)
    units = viewer.layers.units
    here = [canonical_unit(str(u)) for u in units[-3:]] if units is not None else []
    there = canonical_unit(unit) if unit else None
    if there is not None and len(here) == 3 and all(here):
        position = position * np.array([NANOMETRES[there] / NANOMETRES[str(u)] for u in here])
    look_at(viewer, position)
