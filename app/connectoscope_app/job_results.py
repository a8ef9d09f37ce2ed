"""What jobs make, put where it belongs in the window: layers, tables, plots and plans."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.components import ViewerModel
from napari.layers import Layer
from qtpy.QtCore import QObject

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder, JobState
from connectoscope.jobs.request import JobRequest
from connectoscope.segmentation.trust import is_reconstruction
from connectoscope.volumes.endings import short_name
from napari_connectoscope.cascade_map import level0_text
from napari_connectoscope.jobs import JobWatcher, gone
from napari_connectoscope.plan_view import has_numbers
from napari_connectoscope.results import add_result_in_background, finish_results, refresh_result
from napari_connectoscope.sources import source_of
from napari_connectoscope.threads import background

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_LOG_BYTES = 6000  # of its end
_PLOTS_HEIGHT = 400  # a plot and a plan's table can be read from here on


class JobResults(QObject):
    """Follows jobs for ``window`` and shows what they tell."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._growing: dict[str, list[Layer]] = {}  # job folder -> its layers
        self._quiet: set[str] = set()  # folders of jobs that ran when the volumes were closed
        self._followed: weakref.WeakSet[JobWatcher] = weakref.WeakSet()

    def follow(self, watcher: JobWatcher) -> None:
        """Show what a watcher tells, once."""
        self._quiet.discard(str(watcher.folder.path))
        if watcher in self._followed:
            return
        self._followed.add(watcher)
        folder = watcher.folder
        name = self.name_of(folder)
        for signal in (watcher.resulted, watcher.metric, watcher.plotted):
            signal.connect(lambda event: self._tell(event, folder))
        watcher.progressed.connect(lambda _event: self._refresh(folder))
        watcher.logged.connect(lambda line: self._window.log.appendPlainText(f"{name}: {line}"))
        watcher.ended.connect(lambda state: self._ended(state, watcher))

    def show(self, folder: JobFolder) -> None:
        """Everything that a job has made so far."""

        def read() -> list[dict[str, Any]]:
            if not folder.path.exists():
                raise UserError(gone(folder.path))
            return folder.read_events(0)[0]

        self._quiet.discard(str(folder.path))
        background(
            self._window.answers, read, lambda events: self._show_events(events, folder), self._window.tell
        )

    def _show_events(self, events: Sequence[dict[str, Any]], folder: JobFolder) -> None:
        told = [event for event in events if event["type"] in ("result", "metric", "plot")]
        for event in told:
            self._tell(event, folder)
        if not told:
            self._window.tell("This job has made nothing that can be shown yet")
        else:
            self._raise_panel(told)

    def close(self) -> None:
        """The volumes are closed: what the jobs of now make is shown when it is asked for."""
        self._growing.clear()
        self._quiet |= {str(w.folder.path) for w in self._window.jobs.model.watchers() if w.running}

    def name_of(self, folder: JobFolder) -> str:
        """The name of a job's result; of one that only tells, what it was about."""
        request = self._request(folder)
        about = request.parameters.get("source", request.parameters.get("result"))
        if request.destination is None and about is not None:
            return f"{request.task} {short_name(str(about).removeprefix('sample:'))}"
        return folder.path.name.removesuffix(".job")

    def show_points(self, path: Path) -> None:
        """A CSV of places from the disk, as layer and table."""

        def added(layers: Sequence[Layer]) -> None:
            self._window.tell(f"Opened {path.name}: {sum(len(layer.data) for layer in layers):,} points")
            self._window.tables.show_table(path, path.stem)
            self._window.raise_dock("Objects")

        add_result_in_background(
            self._window.viewer,
            {"kind": "points", "path": str(path), "name": path.stem},
            owner=self._window.answers,
            added=added,
            failed=self._window.show_error,
        )

    def show_reconstruction(self, path: Path) -> None:
        """A reconstruction from the disk, beside its X-ray volume."""
        event = {"kind": "image", "path": str(path), "name": path.name}
        self._window.comparison.open(str(path), lambda viewer: self._add(viewer, event, None))
        self._window.remember(str(path))

    def _tell(self, event: dict[str, Any], folder: JobFolder) -> None:
        plots, name = self._window.plots, self.name_of(folder)
        if event["type"] == "metric":
            plots.add_metric(name, event)
        elif event["type"] == "plot":
            plots.add_plot(name, event)
        elif str(folder.path) not in self._quiet or has_numbers(event):
            self._show_result(event, folder)

    def _show_result(self, event: dict[str, Any], folder: JobFolder) -> None:
        path, kind = Path(event["path"]), event["kind"]
        if not path.exists():
            self._window.tell(gone(path))
            return
        if kind in ("table", "points"):
            self._window.tables.show_table(path, str(event.get("name", path.stem)))
        if kind == "patches":
            self._window.label_patches(path)
        elif has_numbers(event):
            self._window.plots.add_plan(self.name_of(folder), event)
        elif kind != "table":
            self._show_layers(event, folder)

    def _show_layers(self, event: dict[str, Any], folder: JobFolder) -> None:
        if event["kind"] == "image" and is_reconstruction(event["path"]):
            self._window.comparison.open(event["path"], lambda viewer: self._add(viewer, event, folder))
        else:
            self._add(self._viewer_of(folder), event, folder)

    def _add(self, viewer: ViewerModel, event: dict[str, Any], folder: JobFolder | None) -> None:
        add_result_in_background(
            viewer,
            event,
            owner=self._window.answers,
            targets=self._request(folder).parameters.get("target") if folder is not None else None,
            added=lambda layers: self._added(layers, folder),
            failed=self._window.tell,  # moved or damaged since: the job goes on
        )

    def _added(self, layers: Sequence[Layer], folder: JobFolder | None) -> None:
        if folder is None:
            return
        self._growing.setdefault(str(folder.path), []).extend(layers)
        if folder.state().ended:  # it has ended while its layers were made
            self._finish(folder)

    def _refresh(self, folder: JobFolder) -> None:
        for layer in self._growing.get(str(folder.path), []):
            refresh_result(layer)

    def _ended(self, state: JobState, watcher: JobWatcher) -> None:
        folder, window = watcher.folder, self._window
        self._finish(folder)
        name = self.name_of(folder)
        if state.status == "done":
            read = level0_text(watcher.summary)
            quiet = str(folder.path) in self._quiet
            hint = ". Show result puts it into the viewer." if quiet else ""
            warning = "".join(watcher.warnings[:1]).rstrip(".")
            warned = warning and f". Warning: {warning}"
            window.tell(f"{name}: finished" + (f", {read}" if read else "") + warned + hint)
            if not quiet:
                self._raise_panel(watcher.results)
        elif state.status == "failed":
            window.show_error(state.message or f"{name} failed", _log_end(folder))
        elif state.status == "paused":
            window.tell(f"{name} is paused: {state.message}")
        else:
            window.tell(f"{name}: {state.message or state.status}. Resume goes on from there.")

    def _raise_panel(self, told: Sequence[dict[str, Any]]) -> None:
        """The panel that says most of what a job has made."""
        kinds = {event.get("kind", event["type"]) for event in told}
        if kinds & {"plan", "model", "ranking", "scores", "plot", "metric"}:
            self._window.raise_dock("Plots", _PLOTS_HEIGHT)
        elif kinds & {"table", "points"}:
            self._window.raise_dock("Objects")

    def _finish(self, folder: JobFolder) -> None:
        destination = self._request(folder).destination
        if destination is not None:
            for viewer in self._window.panes.models:
                finish_results(viewer, str(destination))
        self._growing.pop(str(folder.path), None)

    def _viewer_of(self, folder: JobFolder) -> ViewerModel:
        """Where the source of a job is shown; the one that is looked at, where it is shown nowhere."""
        source = self._request(folder).parameters.get("source")
        for viewer in self._window.panes.models:
            if any(layer.visible and source_of(layer) == source for layer in viewer.layers):
                return viewer
        return self._window.viewer

    def _request(self, folder: JobFolder) -> JobRequest:
        return self._window.jobs.model.request_of(folder)


def _log_end(folder: JobFolder) -> str:
    try:
        with folder.log_path.open("rb") as file:
            file.seek(max(0, folder.log_path.stat().st_size - _LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
