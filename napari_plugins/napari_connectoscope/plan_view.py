"""The plan of a cascade for people: its verdict, the predicted numbers, and a button to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from connectoscope.tasks.base import MenuEntry, Task, load_task

COLUMNS = ("", "One level", "Cascade")
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class PlanView(QWidget):
    """A ``result`` event of kind ``plan``: ``text``, ``table`` (label, one level, cascade), ``task``, ``parameters``."""

    run_wanted = Signal(object)  # the event

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plan: Mapping[str, Any] = {}
        self.verdict = QLabel()
        self.verdict.setStyleSheet("font-weight: 600;")
        self.verdict.setWordWrap(True)
        self.verdict.setTextFormat(Qt.TextFormat.PlainText)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setAccessibleName("Predicted numbers")
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(24)
        self.table.setShowGrid(False)
        self.table.setAlternatingRowColors(True)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.horizontalHeader().setDefaultAlignment(_RIGHT)
        self.run_button = QPushButton("Run with this plan")
        self.run_button.setProperty("accent", True)
        self.run_button.setToolTip("Open the form of the task with this plan filled in")
        self.run_button.clicked.connect(lambda _=False: self.run_wanted.emit(self.plan))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.verdict)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.run_button, 0, Qt.AlignmentFlag.AlignLeft)

    def show_plan(self, event: Mapping[str, Any]) -> None:
        """Show another plan."""
        self.plan = event
        self.verdict.setText(str(event.get("text") or event["name"]))
        rows = event.get("table") or []
        self.table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for j, value in enumerate(row[: len(COLUMNS)]):
                item = QTableWidgetItem(cell_text(value))
                if j:
                    item.setTextAlignment(_RIGHT)
                self.table.setItem(i, j, item)
        self.run_button.setText("Run with this plan" if event.get("pays", True) else "Run with one level")
        self.run_button.setVisible(bool(event.get("task")))


def cell_text(value: Any) -> str:
    """A number or word of the table as people read it."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def planned_task(event: Mapping[str, Any]) -> tuple[Task, MenuEntry]:
    """The task that a plan is for, and its form's values: the plan's own with ``cascade`` set to its file.

    Raises:
        UserError: there is no such task.
    """
    task = load_task(str(event["task"]))
    values = {
        name: value
        for name, value in (event.get("parameters") or {}).items()
        if name in task.parameters.model_fields and name != task.destination
    }
    same = (e for e in task.menu if all(_same(values.get(n), v) for n, v in e.preset.items()))
    entry = next(same, task.menu[0] if task.menu else MenuEntry("", task.name))
    return task, MenuEntry(
        entry.menu, f"{entry.title} with a plan", {**values, "cascade": str(event["path"])}
    )


def _same(a: Any, b: Any) -> bool:
    return (
        (list(a) == list(b)) if isinstance(a, list | tuple) and isinstance(b, list | tuple) else bool(a == b)
    )
