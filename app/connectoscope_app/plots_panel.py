"""Plots of jobs, and beside them the plan of a cascade, the receipt of a model or a ranking, with their numbers."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QSplitter, QVBoxLayout, QWidget

from napari_connectoscope.plan_view import PlanView
from napari_connectoscope.plots import Plot, PlotView


class PlotsPanel(QWidget):
    """One plot at a time, chosen from all that the jobs have told; ``run_wanted`` carries a plan's event."""

    run_wanted = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self._plots: dict[tuple[str, str], Plot] = {}  # by job and name of the plot
        self._plans: dict[str, dict[str, Any]] = {}  # by job
        self._keys: list[tuple[str, str]] = []  # rows of the choice
        self.choice = QComboBox()
        self.choice.setAccessibleName("Plot")
        self.choice.setMinimumWidth(260)
        self.choice.activated.connect(lambda _: self._show_chosen())
        self.choice.hide()
        self.view = PlotView()
        self.plan = PlanView()
        self.plan.run_wanted.connect(self.run_wanted)
        self.plan.hide()
        splitter = QSplitter(Qt.Orientation.Horizontal)
        splitter.setChildrenCollapsible(False)
        for widget, stretch in ((self.view, 3), (self.plan, 2)):
            splitter.addWidget(widget)
            splitter.setStretchFactor(splitter.count() - 1, stretch)
        top = QHBoxLayout()
        top.addWidget(self.choice)
        top.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(6)
        layout.addLayout(top)
        layout.addWidget(splitter, 1)
        self.setFocusProxy(self.choice)

    def add_plot(self, job: str, event: dict[str, Any]) -> None:
        """Show a ``plot`` event of a job."""
        plot = Plot.of(event)
        self._plots[job, plot.name] = plot
        self._choose(job, plot.name)

    def add_metric(self, job: str, event: dict[str, Any]) -> None:
        """Let the curves of a job grow; the first point brings them up."""
        key = (job, str(event["name"]))
        plot = self._plots.get(key)
        if plot is None:
            plot = self._plots[key] = Plot(key[1])
            self._choose(*key)
        plot.grow(event)
        if self.view.plot is plot:
            self.view.changed()

    def add_plan(self, job: str, event: dict[str, Any]) -> None:
        """Show a result of kind ``plan`` beside the plots of its job."""
        self._plans[job] = event
        name = next((name for of, name in self._plots if of == job), "")
        self._choose(job, name)

    def _choose(self, job: str, name: str) -> None:
        """Bring up a plot, listed once; without a name a job's plan alone, until it has a plot."""
        self.choice.blockSignals(True)
        if name and (job, "") in self._keys:
            self.choice.removeItem(self._keys.index((job, "")))
            self._keys.remove((job, ""))
        if (job, name) not in self._keys:
            self.choice.insertItem(0, f"{name or 'Numbers'} — {job}")
            self._keys.insert(0, (job, name))
        self.choice.setCurrentIndex(self._keys.index((job, name)))
        self.choice.blockSignals(False)
        self.choice.show()
        self._show_chosen()

    def _show_chosen(self) -> None:
        key = self._keys[self.choice.currentIndex()]
        plot, plan = self._plots.get(key), self._plans.get(key[0])
        if plot is not None:
            self.view.show_plot(plot)
        self.view.setVisible(plot is not None)
        if plan is not None:
            self.plan.show_plan(plan)
        self.plan.setVisible(plan is not None)
