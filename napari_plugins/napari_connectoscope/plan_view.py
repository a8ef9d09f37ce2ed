"""A plan, a receipt, a ranking or scores for people: its verdict, numbers side by side, and what can be done with it."""

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
    """Whether a ``result`` event is a plan, a ranking, a receipt or scores."""
    return event["kind"] in ("plan", "ranking", "scores") or (
        event["kind"] == "model" and bool(event.get("table"))
    )


COLUMNS = {
    "plan": ("", "One level", "Cascade"),
    "model": ("", "Before", "After"),
    "scores": ("", "Score"),
    "ranking": ("Model", "MMD²", "95 % of resamples", "p", "Within its own data"),
}
_TIPS = (
    "Nearest first",
    "How far your volume is from what the model was trained on: smaller is nearer",
    "How much the distance would change with other patches; where two ranges overlap, neither model is clearly nearer",
    "How often chance alone gives such a distance; small: your volume differs from what the model was trained on",
    "The yardstick: how far two halves of the model's own training data are apart",
)
_LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class PlanView(QWidget):
    """A ``result`` event: ``text``, ``table`` (rows of text under ``COLUMNS``), ``task`` and ``parameters`` of the form to open.

    Of kind ``plan``: one level and cascade. Of kind ``model``: before and after; the model can be discarded. Of kind
    ``ranking``: models, of which one can be chosen. Of kind ``scores``: the figures of an evaluation, and no button.
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
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.currentCellChanged.connect(lambda *_: self._show_choice())
        self.table.doubleClicked.connect(lambda _: self._go_on("segment"))
        self.table.horizontalHeader().setDefaultAlignment(_RIGHT)
        self.run_button = QPushButton("Run with this plan")
        self.run_button.setProperty("accent", True)
        self.run_button.setToolTip("Open the form of the task with this plan filled in")
        self.run_button.clicked.connect(lambda _=False: self._go_on("segment"))
        self.suggest_button = QPushButton("Suggest patches to label…")
        self.suggest_button.setToolTip("Open the form of Adapt ▸ Suggest Patches with this model")
        self.suggest_button.clicked.connect(lambda _=False: self._go_on("adapt suggest"))
        self.discard_button = QPushButton()
        self.discard_button.setToolTip("Delete the new model; the one that it was made of stays")
        self.discard_button.clicked.connect(lambda _=False: self._discard())
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.suggest_button)
        buttons.addWidget(self.discard_button)
        buttons.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.verdict)
        layout.addWidget(self.table, 1)
        layout.addLayout(buttons)

    def show_plan(self, event: Mapping[str, Any]) -> None:
        """Show another plan, receipt or ranking, or scores."""
        self.plan = event
        model, ranking = event["kind"] == "model", event["kind"] == "ranking"
        columns = COLUMNS[event["kind"]]
        one_row = QAbstractItemView.SelectionMode.SingleSelection
        self.table.setSelectionMode(one_row if ranking else QAbstractItemView.SelectionMode.NoSelection)
        self.table.setColumnCount(len(columns))
        self.table.setHorizontalHeaderLabels(columns)
        for j in range(len(columns)):
            self.table.horizontalHeaderItem(j).setToolTip(_TIPS[j] if ranking else "")
        self.table.horizontalHeaderItem(0).setTextAlignment(_LEFT)
        header, modes = self.table.horizontalHeader(), QHeaderView.ResizeMode
        header.setSectionResizeMode(modes.ResizeToContents)
        # Of a ranking the last one, whose short numbers stay whole: squeezed names cannot be told apart.
        header.setSectionResizeMode(len(columns) - 1 if ranking else 0, modes.Stretch)
        text = str(event.get("text") or event["name"])
        self.verdict.setText(text[:1].upper() + text[1:] if model else text)
        rows = event.get("table") or []
        self.table.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for j, value in enumerate(row[: len(columns)]):
                item = QTableWidgetItem(cell_text(value))
                item.setToolTip(item.text())
                if j:
                    item.setTextAlignment(_RIGHT)
                self.table.setItem(i, j, item)
        if model:
            self.run_button.setText("Keep and use it…")
            self.run_button.setToolTip("Open the form of the task with this model chosen")
        else:
            pays = event.get("pays", True)
            self.run_button.setText("Run with this plan" if pays else "Run with one level")
            what = "with this plan filled in" if pays else "without a cascade"
            self.run_button.setToolTip(f"Open the form of the task {what}")
        there = not model or Path(event["path"]).exists()
        self.suggest_button.setVisible(ranking)
        self.run_button.setVisible(there and bool(ranking or event.get("task")))
        self.table.setCurrentCell(0 if ranking else -1, 0)
        self._show_choice()
        self.discard_button.setText("Discard")
        self.discard_button.setVisible(there and model)

    def _show_choice(self) -> None:
        row = self.table.currentRow()
        if self.plan.get("kind") == "ranking" and row >= 0:
            self.run_button.setText(f"Segment with {self.table.item(row, 0).text()}…")
            self.run_button.setToolTip("Open the form of the task with this model chosen")

    def _go_on(self, task: str) -> None:
        """To the form of what the plan is for; of a ranking: to ``task`` with the chosen model."""
        if self.plan.get("kind") != "ranking":
            self.run_wanted.emit(self.plan)
            return
        name = str(self.plan["table"][max(self.table.currentRow(), 0)][0])
        values = {**self.plan.get("parameters", {}), "model": name}
        self.run_wanted.emit({**self.plan, "name": name, "task": task, "parameters": values})

    def _discard(self) -> None:
        """Asks once more, then deletes the model."""
        if self.discard_button.text() == "Discard":
            self.discard_button.setText("Discard for good?")
            return
        from connectoscope.zoo.bundle import read_bundle
        from connectoscope.zoo.writing import remove_bundle

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
    """The task that a plan or a model is for, and its form's values; ``cascade`` is set to a plan's file, if it pays.

    Raises:
        UserError: there is no such task.
    """
    task = load_task(str(event["task"]))
    values = {
        name: value
        for name, value in (event.get("parameters") or {}).items()
        if name in task.parameters.model_fields and name != task.destination
    }
    if event["kind"] == "plan":
        same = (e for e in task.menu if all(_same(values.get(n), v) for n, v in e.preset.items()))
    else:  # a model: what it finds, if that is told
        same = (e for e in task.menu if _same(values.get("target"), e.preset.get("target")))
    entry = next(same, None)
    if event["kind"] != "plan":
        menu, title = (entry.menu, entry.title) if entry is not None else ("", task.name.capitalize())
        return task, MenuEntry(menu, f"{title} with {event['name']}", values)
    entry = entry or (task.menu[0] if task.menu else MenuEntry("", task.name))
    if not event.get("pays", True):
        return task, MenuEntry(entry.menu, entry.title, {**values, "cascade": "off"})
    return task, MenuEntry(
        entry.menu, f"{entry.title} with a plan", {**values, "cascade": str(event["path"])}
    )


def _same(a: Any, b: Any) -> bool:
    return (
        (list(a) == list(b)) if isinstance(a, list | tuple) and isinstance(b, list | tuple) else bool(a == b)
    )
