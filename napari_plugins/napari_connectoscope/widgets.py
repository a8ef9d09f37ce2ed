"""The widgets of the plugin in plain napari: a panel for each task, and *Info*."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_error, show_warning
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QDockWidget, QLabel, QMainWindow, QVBoxLayout, QWidget

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobState
from connectoscope.tasks.base import MenuEntry, load_task
from connectoscope.volumes.geometry import canonical_unit, sizes_text, unit_symbol
from napari_connectoscope.label_panel import LabelPanel
from napari_connectoscope.layers import open_in_background
from napari_connectoscope.plan_view import PlanView, planned_task
from napari_connectoscope.plots import Plot, PlotView
from napari_connectoscope.sources import file_facts, finest, length_unit, source_of
from napari_connectoscope.table import ObjectTable, Table, fly_to, read_table
from napari_connectoscope.task_panel import TaskPanel
from napari_connectoscope.threads import background
from napari_connectoscope.trust_panel import TrustPanel


class DockingPanel(TaskPanel):
    """A task's panel whose tables, plots and plans dock below the viewer."""

    def __init__(self, viewer: Any, task: str, preset: dict[str, Any] | None = None) -> None:
        super().__init__(viewer, task, preset)
        self._undocked = False
        self._tables: dict[str, ObjectTable] = {}
        self._plots: dict[str, tuple[Plot, PlotView]] = {}
        self.table_made.connect(self._read_table)
        self.plan_made.connect(self._show_plan)
        self.plotted.connect(lambda event: self._show_plot(Plot.of(event)))
        self.metric.connect(self._grow_plot)
        self.patches_made.connect(self._label)
        self.ended.connect(self._tell_end)
        self.rested.connect(self._free)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange:
            self._undocked = self.parent() is None
            QTimer.singleShot(0, self, self._free)

    def _free(self) -> None:
        """End as the dock does: napari takes the widget out of it and forgets it. A job is shown to its end."""
        if self._undocked:
            self.close_worker()
            if not self.is_busy:
                self.deleteLater()

    def _tell_end(self, state: JobState) -> None:
        """Where the dock was closed nobody reads the panel."""
        if not self._undocked:
            return
        if state.status in ("failed", "paused"):
            show_error(self.status.text())
        elif self.watcher is not None and self.watcher.warnings:
            show_warning(self.status.text())

    def _not_added(self, text: str) -> None:
        if self._undocked:
            show_error(text)
        super()._not_added(text)

    def _dock(self, widget: QWidget, name: str) -> None:
        dock_below(self.viewer, widget, name)

    def _read_table(self, path: str) -> None:
        self._adding += 1
        background(
            self, lambda: read_table(Path(path)), lambda table: self._show_table(path, table), self._not_added
        )

    def _show_table(self, path: str, table: Table) -> None:
        self._adding -= 1
        try:
            there = self._tables.get(path)
            shown = there if there is not None and isalive(there) else ObjectTable()
            shown.show_table(table, Path(path).stem)
            if shown is not there:
                shown.activated.connect(lambda world, unit: fly_to(self.viewer, world, unit))
                self._tables[path] = shown
                self._dock(shown, str(shown.summary.text()))
        finally:
            self.rested.emit()

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
        plan.run_wanted.connect(lambda event: self._run_plan(event))  # also when this panel has gone
        names = {"plan": "Plan of a cascade", "ranking": "Nearest models", "scores": "Scores"}
        self._dock(plan, names.get(event["kind"], f"Receipt of {event['name']}"))

    def _run_plan(self, event: dict[str, Any]) -> None:
        try:
            task, entry = planned_task(event)
        except UserError as error:
            tell = self.form.show_error if isalive(self) else show_error
            tell(str(error))
            return
        dock_form(self.viewer, task.name, entry)

    def _label(self, path: str) -> None:
        panel = label_widget(self.viewer) or LabelWidget(self.viewer)
        dock = _dock_of(panel)
        window = getattr(self.viewer, "window", None)
        if dock is not None:
            dock.show()
            dock.raise_()
        elif window is not None:
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


class EvaluateWidget(DockingPanel):
    """*Evaluate*: a result against ground truth."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "evaluate")


class LabelWidget(LabelPanel):
    """*Label patches*: opens the volume, has keys in the viewer, and leads to the form of the training.

    One labels in a viewer at a time: two would save different labels of one patch to one file. The one whose dock was
    closed goes on saving what is painted, until the next takes over.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.volume_wanted.connect(self._open_volume)
        self.train_wanted.connect(self._show_training)
        self.failed.connect(self._say)
        earlier = label_widget(napari_viewer)
        if earlier is None or earlier.labelling is None:
            self._take_over()
            if earlier is not None and _dock_of(earlier) is None:
                earlier.deleteLater()
        else:
            self.open(earlier.labelling.path)

    def open(self, path: Path | str) -> None:
        """Label these patches; what another panel labelled in this viewer is saved and closed first."""
        earlier = label_widget(self.viewer)
        if earlier is not self:
            if earlier is not None and not earlier.close_session():
                self.failed.emit(earlier.state.text())
                return
            self._take_over()
            if earlier is not None:
                if _dock_of(earlier) is not None:
                    self.viewer.window.remove_dock_widget(earlier)
                earlier.deleteLater()
        super().open(path)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """As a panel's; and a window of napari stays open while labels cannot be saved, unless they may be lost."""
        if event.type() == QEvent.Type.Close and isinstance(watched, QMainWindow) and not self.may_close():
            event.ignore()
            return True
        return super().eventFilter(watched, event)

    def _take_over(self) -> None:
        """The viewer's keys are ours; they keep us, too, when the dock is closed."""
        _label_widgets[_itself(self.viewer)] = ref(self)
        for key, act in (
            ("Alt-Left", lambda: self.step(-1)),
            ("Alt-Right", lambda: self.step(1)),
            ("Alt-Enter", self.finish),
        ):
            self.viewer.bind_key(key, lambda _, act=act: act() if isalive(self) else None, overwrite=True)

    def _open_volume(self, source: str) -> None:
        open_in_background(self.viewer, source, owner=self, failed=self._say)

    def _show_training(self, values: dict[str, Any]) -> None:
        dock_form(self.viewer, "adapt train", MenuEntry("Adapt", "Train on patches", values))


_label_widgets: WeakKeyDictionary[ViewerModel, ref[LabelWidget]] = WeakKeyDictionary()


def label_widget(viewer: Any) -> LabelWidget | None:
    """The panel that labels in a viewer."""
    there = _label_widgets.get(_itself(viewer))
    panel = there() if there is not None else None
    return panel if panel is not None and isalive(panel) else None


def _itself(viewer: Any) -> ViewerModel:
    """napari hands plugins a proxy."""
    return getattr(viewer, "__wrapped__", viewer)


def _dock_of(widget: QWidget) -> QDockWidget | None:
    """The dock that a widget is in; None where that was closed, for napari then takes the widget out of it."""
    while widget is not None and not isinstance(widget, QDockWidget):
        widget = widget.parentWidget()
    return widget


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
    facts = file_facts(layer)
    lines = [layer.name]
    source = source_of(layer) or layer.source.path
    lines.append(f"Source: {source}" if source else "Only in memory")
    unit = length_unit(layer)
    if isinstance(layer, Image | Labels):
        array = finest(layer)
        lines.append(f"{sizes_text(array.shape)} voxels ({', '.join(layer.axis_labels)}), {array.dtype}")
        if layer.multiscale:
            lines.append(f"{len(layer.data)} levels, the coarsest {sizes_text(layer.level_shapes[-1])}")
        lines.append(
            f"Voxel size: {_lengths(layer, layer.scale, ' × ')}" if unit else "Voxel size: not stated"
        )
    else:  # whose data may be of any kind
        count = len(getattr(layer, "vertices", layer.data))
        lines.append(f"{type(layer).__name__}: {count} item{'' if count == 1 else 's'}")
        lines.append(f"Unit: {unit_symbol(unit)}" if unit else "Unit: not stated")
    if any(layer.translate):
        lines.append(f"Begins at: {_lengths(layer, layer.translate, ', ')}")
    return "\n".join([*lines, *(f"Note: {warning}" for warning in facts.get("warnings", ()))])


def _lengths(layer: Layer, values: Any, between: str) -> str:
    """A value for each axis with its unit, which is said once where it is the same for all."""
    symbols = [unit_symbol(canonical_unit(str(unit)) or str(unit)) for unit in layer.units]
    symbols = ["" if symbol == "pixel" else symbol for symbol in symbols]
    if len(set(symbols)) == 1:
        return f"{between.join(f'{v:g}' for v in values)} {symbols[0]}".rstrip()
    return between.join(f"{v:g} {s}".rstrip() for v, s in zip(values, symbols, strict=True))
