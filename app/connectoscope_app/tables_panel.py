"""Tables of objects, one for each result; a click flies to the object."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_connectoscope.table import ObjectTable, Table, read_table
from napari_connectoscope.threads import background

_HINT = "Objects of a job appear here; a click flies to them."


class TablesPanel(QWidget):
    """``fly_wanted`` carries a world position (z, y, x) and its unit."""

    fly_wanted = Signal(object, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self._wanted = 0  # counts what was asked for: an answer to what was asked before is dropped
        self._shown = ""
        self.choice = QComboBox()
        self.choice.setAccessibleName("Table")
        self.choice.setMinimumWidth(260)
        self.hint = QLabel(_HINT)
        self.hint.setObjectName("muted")
        self.hint.setWordWrap(True)
        self.table = ObjectTable(self)
        self.table.view.setAccessibleName("Objects")
        self.table.view.verticalHeader().setDefaultSectionSize(26)
        self.table.activated.connect(self.fly_wanted)
        self.choice.activated.connect(lambda index: self._load(self.choice.itemData(index)))
        self.choice.hide()
        top = QHBoxLayout()
        top.addWidget(self.choice)
        top.addWidget(self.hint, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(6)
        layout.addLayout(top)
        layout.addWidget(self.table, 1)
        self.setFocusProxy(self.table.view)

    def show_table(self, path: Path | str, name: str) -> None:
        """Add a CSV file (or take the one there is) and show it."""
        place = Path(path)
        path = str(path)
        index = self.choice.findData(path)
        if index < 0:
            result = place.parent.parent.name if place.parent.name == "tables" else place.name
            self.choice.insertItem(0, f"{name} — {result}", path)
            index = 0
        self.choice.setCurrentIndex(index)
        self.hint.hide()  # first: the two beside each other are wider than a small window has room for
        self.choice.show()
        self._load(path)

    def clear(self) -> None:
        """Forget all tables; their files stay."""
        self._wanted += 1
        self._shown = ""
        self.choice.clear()
        self.choice.hide()
        self.table.clear()
        self.hint.setText(_HINT)
        self.hint.show()

    def _load(self, path: str) -> None:
        """In a thread, for a table may have millions of rows; shown if nothing else was asked for since."""
        self._wanted = wanted = self._wanted + 1
        if path != self._shown:  # a click would fly to what is not chosen any more
            self.table.clear()
        self._shown = path

        def show(table: Table) -> None:
            if wanted == self._wanted:
                self.table.show_table(table, Path(path).stem)
                self.hint.hide()

        def say(line: str) -> None:
            if wanted == self._wanted:
                self.hint.setText(line)
                self.hint.show()

        background(self, lambda: read_table(Path(path)), show, say)
