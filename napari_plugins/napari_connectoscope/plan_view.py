"""A plan or a receipt for people: its verdict, numbers side by side, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, Task, load_task


def has_numbers(event: Mapping[str, Any]) -> bool:
    """Whether a ``result`` event is a plan or a receipt."""
    return event["kind"] == "plan" or (event["kind"] == "model" and bool(event.get("table")))


COLUMNS = {"plan": ("", "One level", "Cascade"), "model": ("", "Before", "After")}
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class PlanView(QWidget):
    """A ``result`` event: ``text``, ``table`` (label and two columns), ``task`` and ``parameters`` of the form to open.

    Of kind ``plan``: one level and cascade. Of kind ``model``: before and after; the model can be discarded.
    """

    run_wanted = Signal(object)  # the event

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.plan: Mapping[str, Any] = {}
        self.verdict = QLabel()
        self.verdict.setStyleSheet("font-weight: 600;")
        self.verdict.setWordWrap(True)
        self.verdict.setTextFormat(Qt.TextFormat.PlainText)
        self.verdict.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.table = QTableWidget(0, 3)
        self.table.setAccessibleName("Numbers side by side")
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
        self.discard_button = QPushButton()
        self.discard_button.setToolTip("Delete the new model; the one that it was made of stays")
        self.discard_button.clicked.connect(lambda _=False: self._discard())
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.discard_button)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.verdict)
        layout.addWidget(self.table, 1)
        layout.addLayout(buttons)

    def show_plan(self, event: Mapping[str, Any]) -> None:
        """Show another plan or receipt."""
        self.plan = event
        model = event["kind"] == "model"
        columns = COLUMNS[event["kind"]]
        self.table.setHorizontalHeaderLabels(columns)
        self.verdict.setText(str(event.get("text") or event["name"]))
        rows = event.get("table") or []
        self.table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for j, value in enumerate(row[: len(columns)]):
                item = QTableWidgetItem(cell_text(value))
                if j:
                    item.setTextAlignment(_RIGHT)
                self.table.setItem(i, j, item)
        if model:
            self.run_button.setText("Keep and use it…")
            self.run_button.setToolTip("Open the form of the task with this model chosen")
        else:
            self.run_button.setText("Run with this plan" if event.get("pays", True) else "Run with one level")
            self.run_button.setToolTip("Open the form of the task with this plan filled in")
        there = not model or Path(event["path"]).exists()
        self.run_button.setVisible(there and bool(event.get("task")))
        self.discard_button.setText("Discard")
        self.discard_button.setVisible(there and model)

    def _discard(self) -> None:
        """Asks once more, then deletes the model."""
        if self.discard_button.text() == "Discard":
            self.discard_button.setText("Discard for good?")
            return
        from connectoscope.zoo.bundle import read_bundle, remove_bundle

        try:
            remove_bundle(read_bundle(Path(self.plan["path"])))
            said = f"{self.plan['name']} is discarded."
        except UserError as error:
            said = str(error)
        self.verdict.setText(said)
        self.run_button.hide()
        self.discard_button.hide()


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
    """The task that a plan or a model is for, and its form's values; ``cascade`` is set to a plan's file.

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
    if event["kind"] == "model":
        return task, MenuEntry(entry.menu, f"{entry.title} with {event['name']}", {**entry.preset, **values})
    return task, MenuEntry(
        entry.menu, f"{entry.title} with a plan", {**values, "cascade": str(event["path"])}
    )


def _same(a: Any, b: Any) -> bool:
    return (
        (list(a) == list(b)) if isinstance(a, list | tuple) and isinstance(b, list | tuple) else bool(a == b)
    )
