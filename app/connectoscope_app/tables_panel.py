"""Tables of objects, one for each result; a click flies to the object."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from connectoscope.errors import UserError
from napari_connectoscope.table import ObjectTable

_HINT = "Objects of a job appear here; a click flies to them."


class TablesPanel(QWidget):
    """``fly_wanted`` carries a world position (z, y, x) and its unit."""

    fly_wanted = Signal(object, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.choice = QComboBox()
        self.choice.setAccessibleName("Table")
        self.choice.setMinimumWidth(260)
        self.hint = QLabel(_HINT)
        self.hint.setObjectName("muted")
        self.hint.setWordWrap(True)
        self.table = ObjectTable(None, self)
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
        self.choice.clear()
        self.choice.hide()
        self.table.clear()
        self.hint.setText(_HINT)
        self.hint.show()

    def _load(self, path: str) -> None:
        try:
            self.table.load(path)
        except UserError as error:
            self.hint.setText(str(error))
            self.hint.show()
        else:
            self.hint.hide()
