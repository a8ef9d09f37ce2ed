"""The widgets of the plugin in plain napari: a panel for each task, and *Info*."""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Layer
from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, load_task
from connectoscope.volumes.geometry import unit_symbol
from napari_connectoscope.label_panel import LabelPanel
from napari_connectoscope.layers import open_in_background
from napari_connectoscope.plan_view import PlanView, planned_task
from napari_connectoscope.plots import Plot, PlotView
from napari_connectoscope.sources import finest, layer_facts, length_unit, source_of
from napari_connectoscope.table import ObjectTable, fly_to
from napari_connectoscope.task_panel import TaskPanel
from napari_connectoscope.trust_panel import TrustPanel


class DockingPanel(TaskPanel):
    """A task's panel whose tables, plots and plans dock below the viewer."""

    def __init__(self, viewer: Any, task: str, preset: dict[str, Any] | None = None) -> None:
        super().__init__(viewer, task, preset)
        self._tables: dict[str, ObjectTable] = {}
        self._plots: dict[str, tuple[Plot, PlotView]] = {}
        self.table_made.connect(self._show_table)
        self.plan_made.connect(self._show_plan)
        self.plotted.connect(lambda event: self._show_plot(Plot.of(event)))
        self.metric.connect(self._grow_plot)
        self.patches_made.connect(self._label)

    def _dock(self, widget: QWidget, name: str) -> None:
        dock_below(self.viewer, widget, name)

    def _show_table(self, path: str) -> None:
        try:
            table = self._tables.get(path)
            if table is not None and isalive(table):
                table.load(path)
                return
            table = ObjectTable(path)
        except UserError as error:
            self.form.show_error(str(error))
            return
        table.activated.connect(lambda world, unit: fly_to(self.viewer, world, unit))
        self._tables[path] = table
        self._dock(table, str(table.summary.text()))

    def _show_plot(self, plot: Plot) -> None:
        _, view = self._plots.get(plot.name, (None, None))
        if view is None or not isalive(view):
            view = PlotView()
            self._dock(view, plot.name)
        self._plots[plot.name] = (plot, view)
        view.show_plot(plot)

    def _grow_plot(self, event: dict[str, Any]) -> None:
        name = str(event["name"])
        if name not in self._plots:
            self._show_plot(Plot(name))
        plot, view = self._plots[name]
        plot.grow(event)
        if isalive(view):
            view.changed()

    def _show_plan(self, event: dict[str, Any]) -> None:
        plan = PlanView()
        plan.show_plan(event)
        plan.run_wanted.connect(self._run_plan)
        names = {"plan": "Plan of a cascade", "ranking": "Nearest models"}
        self._dock(plan, names.get(event["kind"], f"Receipt of {event['name']}"))

    def _run_plan(self, event: dict[str, Any]) -> None:
        try:
            task, entry = planned_task(event)
        except UserError as error:
            self.form.show_error(str(error))
            return
        dock_form(self.viewer, task.name, entry)

    def _label(self, path: str) -> None:
        panel = LabelWidget(self.viewer)
        window = getattr(self.viewer, "window", None)
        if window is not None:
            window.add_dock_widget(panel, name="Label patches")
        panel.open(path)


def dock_below(viewer: Any, widget: QWidget, name: str) -> None:
    """A widget below the viewer."""
    window = getattr(viewer, "window", None)  # a bare ViewerModel has none
    if window is not None:
        window.add_dock_widget(widget, name=name, area="bottom")


def dock_form(viewer: Any, task: str, entry: MenuEntry) -> None:
    """The panel of a task, with the values of an entry, at the right of the viewer."""
    panel = DockingPanel(viewer, task, dict(entry.preset))
    window = getattr(viewer, "window", None)
    if window is not None:
        window.add_dock_widget(panel, name=entry.title)


class SegmentWidget(DockingPanel):
    """*Segment synapses* (and the model's other outputs)."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "segment", {"target": ("synapses",)})


class DetectWidget(DockingPanel):
    """*Detect cells*."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "detect", {"detector": "cells"})


class ReconstructWidget(DockingPanel):
    """*X-ray to EM*; with the result comes the panel of trust."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "reconstruct")
        self.trust: TrustPanel | None = None
        self.layers_shown.connect(lambda _layers: self._show_trust())

    def _show_trust(self) -> None:
        if self.trust is None or not isalive(self.trust):
            self.trust = TrustWidget(self.viewer)
            self._dock(self.trust, "Trust in a reconstruction")


class TrustWidget(TrustPanel):
    """*Trust in a reconstruction*; its plot docks below the viewer."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.plot_wanted.connect(self._show_plot)

    def _show_plot(self, event: dict[str, Any]) -> None:
        view = PlotView()
        dock_below(self.viewer, view, event["name"])
        view.show_plot(Plot.of(event))


class PlanWidget(DockingPanel):
    """*Plan a cascade*: what looking coarsely first saves and misses."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "plan-cascade", dict(load_task("plan-cascade").menu[0].preset))


class RankWidget(DockingPanel):
    """*Rank models*: which one knows what looks most like a volume."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "adapt rank")


class SuggestWidget(DockingPanel):
    """*Suggest patches* that are worth labelling."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "adapt suggest")


class TrainWidget(DockingPanel):
    """*Train on patches*."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "adapt train")


class LabelWidget(LabelPanel):
    """*Label patches*: opens the volume, has keys in the viewer, and leads to the form of the training."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.volume_wanted.connect(self._open_volume)
        self.train_wanted.connect(self._show_training)
        self.failed.connect(self.state.setText)
        for key, act in (
            ("Alt-Left", lambda: self.step(-1)),
            ("Alt-Right", lambda: self.step(1)),
            ("Alt-Enter", self.finish),
        ):
            napari_viewer.bind_key(key, lambda _, act=act: act() if isalive(self) else None, overwrite=True)

    def _open_volume(self, source: str) -> None:
        open_in_background(self.viewer, source, owner=self, failed=self.state.setText)

    def _show_training(self, values: dict[str, Any]) -> None:
        dock_form(self.viewer, "adapt train", MenuEntry("Adapt", "Train on patches", values))


class InfoWidget(QWidget):
    """What the selected layer is: source, levels, voxel size, place."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout = QVBoxLayout(self)
        layout.addWidget(self.text)
        layout.addStretch(1)
        napari_viewer.layers.selection.events.active.connect(self.show_active)
        self.show_active()

    def show_active(self, event: Any = None) -> None:
        """Describe the selected layer."""
        if isalive(self):
            layer = self._viewer.layers.selection.active
            self.text.setText("Select a layer." if layer is None else describe(layer))


def describe(layer: Layer) -> str:
    """A layer in a few lines for people; reads nothing."""
    facts = layer_facts(layer)
    lines = [layer.name]
    source = source_of(layer) or layer.source.path
    lines.append(f"Source: {source}" if source else "Only in memory")
    if isinstance(layer, Image) or hasattr(layer, "multiscale"):
        array = finest(layer)
        shape = " × ".join(str(int(n)) for n in array.shape)
        lines.append(f"{shape} voxels ({', '.join(layer.axis_labels)}), {array.dtype}")
        if layer.multiscale:
            lines.append(
                f"{len(layer.data)} levels, the coarsest {' × '.join(map(str, layer.level_shapes[-1]))}"
            )
    unit = length_unit(layer)
    size = " × ".join(f"{s:g}" for s in layer.scale)
    lines.append(f"Voxel size: {size} {unit_symbol(unit)}" if unit else "Voxel size: not stated")
    if any(layer.translate):
        lines.append(
            f"Begins at: {', '.join(f'{t:g}' for t in layer.translate)} {unit_symbol(unit) if unit else ''}"
        )
    return "\n".join([*lines, *(f"Note: {warning}" for warning in facts.get("warnings", ()))])
