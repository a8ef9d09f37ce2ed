"""The command palette (Ctrl+Shift+P): type a few letters, Enter runs it."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QDialog, QLineEdit, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from connectoscope_app.actions import Command


def matches(query: str, text: str) -> bool:
    """Every word of the query occurs in the text, in any order, whatever the case."""
    lowered = text.lower()
    return all(word in lowered for word in query.lower().split())


class CommandPalette(QDialog):
    """All commands in one filtered list. ``chosen`` is emitted after the palette has closed."""

    chosen = Signal(object)  # Command

    def __init__(self, commands: Iterable[Command], parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setObjectName("palette")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle("Command palette")
        self.search = QLineEdit()
        self.search.setPlaceholderText("Type a command: synapses, open, dark …")
        self.search.setAccessibleName("Search commands")
        self.list = QListWidget()
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # arrows work while typing
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for command in commands:
            keys = QKeySequence(command.shortcut).toString(QKeySequence.SequenceFormat.NativeText)
            item = QListWidgetItem(command.palette_text + (f"    {keys}" if keys else ""))
            item.setToolTip(command.tooltip)
            item.setData(Qt.ItemDataRole.UserRole, command)
            self.list.addItem(item)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 10, 10, 10)
        layout.addWidget(self.search)
        layout.addWidget(self.list)
        self.search.textChanged.connect(self.filter)
        self.search.returnPressed.connect(self.accept_current)
        self.list.itemClicked.connect(lambda _: self.accept_current())
        self.search.installEventFilter(self)
        self.filter("")

    def open_over(self, window: QWidget) -> None:
        """Show it at the top of ``window``."""
        width = min(640, window.width() - 40)
        self.resize(width, min(460, window.height() - 120))
        corner = window.mapToGlobal(window.rect().topLeft())
        self.move(corner.x() + (window.width() - width) // 2, corner.y() + 60)
        self.show()
        self.search.setFocus()

    def filter(self, query: str) -> None:
        """Commands whose names match; where there are none, those whose tooltips do. The earliest match is chosen."""
        items = [self.list.item(row) for row in range(self.list.count())]
        commands: list[Command] = [item.data(Qt.ItemDataRole.UserRole) for item in items]
        named = [matches(query, command.palette_text) for command in commands]
        found = named if any(named) else [matches(query, f"{c.palette_text} {c.tooltip}") for c in commands]
        for item, shown in zip(items, found, strict=True):
            item.setHidden(not shown)
        word = (query.lower().split() or [""])[0]
        # How much of a title comes before the match: all of it where it is in the menu's name or the tooltip.
        before = [len(command.title.lower().partition(word)[0]) if word else 0 for command in commands]
        rows = [row for row, shown in enumerate(found) if shown]
        self.list.setCurrentRow(min(rows, key=lambda row: before[row], default=-1))

    def visible_commands(self) -> list[Command]:
        items = (self.list.item(row) for row in range(self.list.count()))
        return [item.data(Qt.ItemDataRole.UserRole) for item in items if not item.isHidden()]

    def accept_current(self) -> None:
        item = self.list.currentItem()
        if item is not None and not item.isHidden():
            command = item.data(Qt.ItemDataRole.UserRole)
            self.close()
            self.chosen.emit(command)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        if event.type() == QEvent.Type.KeyPress and event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            step = -1 if event.key() == Qt.Key.Key_Up else 1
            row = self.list.currentRow() + step
            while 0 <= row < self.list.count() and self.list.item(row).isHidden():
                row += step
            if 0 <= row < self.list.count():
                self.list.setCurrentRow(row)
            return True
        return super().eventFilter(watched, event)
