"""Submitting jobs and watching them. A job outlives the window: all we know of it is in its folder."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt, QTimer, Signal

from connectoscope.blockwise.destination import check_apart
from connectoscope.detection.points import named_after
from connectoscope.errors import Taken, UserError
from connectoscope.jobs.folder import STATUS_OF, JobFolder, JobState
from connectoscope.jobs.request import JobRequest
from connectoscope.tasks.base import Task, load_task
from connectoscope.volumes import read_marks
from connectoscope.words import duration
from napari_connectoscope.cascade_map import level0_text
from napari_connectoscope.wording import in_form_words

POLL_MS = 250
_QUIET_SECONDS = 2.0  # so long without a word before asking whether the process is alive
_START_SECONDS = 60.0  # so long for the first word


def create(task: str, values: Mapping[str, Any], **options: Any) -> JobFolder:
    """The folder of a new job, not yet started.

    Args:
        task: Its name.
        values: Its parameters.
        options: ``device``, ``threads``, ``overwrite``, ``keep_job`` of the request.

    Raises:
        UserError: when the parameters are not valid, or the place is the source's or taken by another run.
    """
    options = {"background": True, "keep_job": True, **options}
    request = JobRequest.make(load_task(task), dict(values), **options)
    if request.destination is not None:  # before it is asked whether what lies there is to be replaced
        check_apart(str(request.parameters.get(load_task(task).source) or ""), request.destination)
    _check_result(request)
    return JobFolder.create(request)


def create_of_copy(task: str, values: Mapping[str, Any], name: str, **options: Any) -> tuple[JobFolder, Path]:
    """:func:`create` for a task without a destination, whose source is yet to be copied into its folder.

    Args:
        name: Of the copy.

    Returns:
        The folder, and where the copy belongs.
    """
    source = load_task(task).source
    folder = create(task, {**values, source: name}, **options)
    path = folder.path / name  # known only now: the folder is a temporary one
    request = folder.request
    request = request.model_copy(update={"parameters": {**request.parameters, source: str(path)}})
    folder.request_path.write_text(request.to_json(), encoding="utf-8")
    return folder, path


def _check_result(request: JobRequest) -> None:
    """Raises Taken where a result whose job folder has gone (:class:`JobFolder` asks those) says that another request made it."""
    place = request.destination
    if place is None or request.overwrite:
        return
    folder = JobFolder(f"{place}.job")
    if folder.holder() is not None or folder.has_begun():
        return
    told = _told_request(place)
    if not told:
        return
    parameters = {**request.parameters, **told.get("parameters", {})}  # where it lies is not told
    made = request.model_copy(update={"task": told.get("task", request.task), "parameters": parameters})
    if different := made.differences(request):
        raise Taken(f"{place} was made by another request: {'; '.join(different)}")
    copy = Path(str(request.parameters.get(load_task(request.task).source)))
    if folder.path in copy.parents and not copy.exists():
        raise Taken(f"{place} was made of an earlier copy of the layer")  # which may have changed since


def _told_request(place: Path) -> dict[str, Any]:
    """The request that the result at ``place`` says it was made by; empty where it says nothing."""
    with contextlib.suppress(UserError, OSError):
        if place.exists() and (told := read_marks(place).get("request")):
            return dict(told)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # what detect writes beside a table
        about = json.loads(named_after(place, ".json").read_bytes())
        if about["file"] == place.name:
            return dict(about["request"])
    return {}


def gone(path: Path) -> str:
    """What to tell of a file or folder that is no longer there."""
    return f"{path.name} is gone: it was moved or deleted"


def start(folder: JobFolder) -> None:
    """Start, or resume, a job in a process of its own.

    Raises:
        UserError: when it runs already, or its folder has gone.
    """
    from connectoscope.jobs.run import start_detached

    if not folder.request_path.is_file():
        raise UserError(gone(folder.path))
    holder = folder.holder()
    if holder is not None and not folder.state().ended:  # else it is leaving, and run_job waits for that
        raise UserError(f"{folder.path.name} is already running (process {holder.pid})")
    folder.cancel_path.unlink(missing_ok=True)
    folder.events().write("submitted")  # what ended before this line is an earlier run
    start_detached(folder)


def submit(task: str, values: Mapping[str, Any], **options: Any) -> JobFolder:
    """:func:`create` and :func:`start`."""
    folder = create(task, values, **options)
    start(folder)
    return folder


class JobWatcher(QObject):
    """Tells what happens in a job folder: reads new lines of its events, four times a second. What is said of options is told
    of the fields of a form.

    Args:
        folder: The job; it may have begun long ago, its past is told first.
    """

    progressed = Signal(object)  # the event: done, total, phase, fraction, seconds_left
    resulted = Signal(object)  # the event: kind, path, name, ...
    logged = Signal(str)  # one line: log, warning, restart
    metric = Signal(object)  # the event: name, step, values
    plotted = Signal(object)  # the event: name, x, y, series, marked
    ended = Signal(object)  # JobState, once for each run

    def __init__(self, folder: JobFolder | Path | str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.folder = folder if isinstance(folder, JobFolder) else JobFolder(folder)
        self.last_progress: dict[str, Any] = {}
        self.results: list[dict[str, Any]] = []
        self.summary: dict[str, Any] | None = None
        self.state: JobState | None = None  # set when the run has ended
        self._task: Task | None = None
        self._offset = 0
        self._heard = time.monotonic()
        self._begun = False
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self.poll)
        self._timer.start()

    def resume(self) -> None:
        """Start the job again and go on watching. Raises UserError as :func:`start` does."""
        start(self.folder)
        self.start()

    def start(self, *, anew: bool = False) -> None:
        """Watch; also again after an end, because the job was started again. A new watcher watches by itself.

        Args:
            anew: The folder was made again, of another request: what it told before is no longer there.
        """
        if anew:
            self._offset, self.last_progress, self.results, self.summary = 0, {}, [], None
        self.state, self._begun, self._heard = None, False, time.monotonic()
        self._timer.start()

    def stop(self) -> None:
        """Watch no more; the job goes on."""
        self._timer.stop()

    @property
    def running(self) -> bool:
        return self.state is None

    @property
    def warnings(self) -> list[str]:
        """What a run that is done has told the user to look at."""
        return [self._in_form_words(text) for text in (self.summary or {}).get("warnings", ())]

    @property
    def started_again(self) -> bool:
        """Whether the job was started, by whomever, since it has ended."""
        if self.running:
            return False
        events, _ = self.folder.read_events(self._offset)
        return any(event["type"] in ("submitted", "started") for event in events)

    def poll(self) -> None:
        """Tell what is new; the timer calls it."""
        events, self._offset = self.folder.read_events(self._offset)
        if events:
            self._heard = time.monotonic()
        ended: dict[str, Any] | None = None
        for event in events:
            kind = event["type"]
            if kind in ("started", "submitted"):
                ended = None  # an earlier run's end
                self._begun = kind == "started"
            elif kind in STATUS_OF:
                ended = event
            else:
                self._tell(event)
        if ended is not None:
            self._end(self.folder.state(), ended)
        elif not events and time.monotonic() - self._heard > (
            _QUIET_SECONDS if self._begun else _START_SECONDS
        ):
            self._look_for_life()

    def _tell(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "progress":
            self.last_progress = event
            self.progressed.emit(event)
        elif kind == "result":
            self.results.append(event)
            self.resulted.emit(event)
        elif kind == "metric":
            self.metric.emit(event)
        elif kind == "plot":
            self.plotted.emit(event)
        elif event.get("message"):
            prefix = "Warning: " if kind == "warning" else ""
            self.logged.emit(prefix + self._in_form_words(str(event["message"])))

    def _in_form_words(self, text: str) -> str:
        if self._task is None:
            with contextlib.suppress(UserError):  # the folder has gone
                self._task = load_task(self.folder.request.task)
        return text if self._task is None else in_form_words(text, self._task)

    def _look_for_life(self) -> None:
        """Nothing was heard for long: a killed process cannot say that it ended."""
        self._heard = time.monotonic()
        state = self.folder.state()
        if not self.folder.path.exists():
            self._end(JobState("failed", gone(self.folder.path), 1), {})
        elif self._begun and state.status == "paused":
            self._end(state, {})
        elif not self._begun and self.folder.holder() is None:
            unborn = JobState("failed", f"it did not start; see {self.folder.path / 'supervisor.log'}", 1)
            self._end(state if state.ended else unborn, {})

    def _end(self, state: JobState, event: dict[str, Any]) -> None:
        if not state.ended:  # the folder is gone already, or the state is read a moment too early
            status = STATUS_OF[event["type"]]
            state = JobState(status, str(event.get("message", "")), event.get("exit_code"))
        self._timer.stop()
        state = replace(state, message=self._in_form_words(state.message))
        self.state = state
        self.summary = event.get("summary", self.summary)
        self.ended.emit(state)


def time_left(progress: Mapping[str, Any]) -> str:
    """``1 min 35 s``, of a progress event; "" where it does not say."""
    seconds = progress.get("seconds_left")
    return "" if seconds is None else duration(round(seconds))


class JobModel(QAbstractTableModel):
    """The jobs of a window, newest first: task, result, state, progress, time left.

    ``Qt.UserRole`` of the progress column is the fraction (0..1) or None, for a delegate's bar.
    """

    COLUMNS = ("Task", "Result", "State", "Progress", "Time left")
    changed = Signal(int)  # row

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._watchers: list[JobWatcher] = []
        self._requests: list[JobRequest] = []

    def add(self, folder: JobFolder | Path | str) -> JobWatcher:
        """Watch a job; one in the list is watched on if it was started again. Raises UserError when it is no job folder."""
        folder = folder if isinstance(folder, JobFolder) else JobFolder(folder)
        request = folder.request
        for row, watcher in enumerate(self._watchers):
            if watcher.folder.path == folder.path:
                anew = request.created != self._requests[row].created
                self._requests[row] = request
                if anew or watcher.started_again:
                    watcher.start(anew=anew)
                    self._update(watcher)
                return watcher
        self.beginInsertRows(QModelIndex(), 0, 0)
        watcher = JobWatcher(folder, self)
        self._watchers.insert(0, watcher)
        self._requests.insert(0, request)
        self.endInsertRows()
        for signal in (watcher.progressed, watcher.ended):
            signal.connect(lambda _, watcher=watcher: self._update(watcher))
        return watcher

    def _update(self, watcher: JobWatcher) -> None:
        row = self._watchers.index(watcher)
        self.dataChanged.emit(self.index(row, 0), self.index(row, len(self.COLUMNS) - 1))
        self.changed.emit(row)

    def watcher(self, row: int) -> JobWatcher:
        return self._watchers[row]

    def watchers(self) -> tuple[JobWatcher, ...]:
        return tuple(self._watchers)

    def request(self, row: int) -> JobRequest:
        return self._requests[row]

    def request_of(self, folder: JobFolder) -> JobRequest:
        """What a job was asked for; of one in the list also when its folder has gone."""
        for watcher, request in zip(self._watchers, self._requests, strict=True):
            if watcher.folder.path == folder.path:
                return request
        return folder.request

    def can_resume(self, row: int) -> bool:
        state = self._watchers[row].state
        return state is not None and state.resumable

    def cancel(self, row: int) -> None:
        """Ask a job to stop; finished blocks are kept."""
        self._watchers[row].folder.cancel()

    def resume(self, row: int) -> None:
        """Go on with a stopped job. Raises UserError as :func:`start` does."""
        self._watchers[row].resume()
        self._update(self._watchers[row])

    def remove(self, row: int) -> None:
        """Forget a job; its folder stays."""
        self.beginRemoveRows(QModelIndex(), row, row)
        watcher = self._watchers.pop(row)
        self._requests.pop(row)
        self.endRemoveRows()
        watcher.stop()
        watcher.deleteLater()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self._watchers)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self.COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: N802
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return self.COLUMNS[section]
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        watcher, request = self._watchers[index.row()], self._requests[index.row()]
        fraction = (
            1.0 if watcher.state and watcher.state.status == "done" else watcher.last_progress.get("fraction")
        )
        if role == Qt.ItemDataRole.UserRole and index.column() == 3:
            return fraction
        if role == Qt.ItemDataRole.ToolTipRole:
            told = [(watcher.state.message if watcher.state else "") or str(watcher.folder.path)]
            return "\n".join(told + [f"⚠ {text}" for text in watcher.warnings])
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        destination = request.destination
        return (
            request.task,
            destination.name if destination is not None else "",
            self._state_text(watcher),
            "" if fraction is None else f"{100 * fraction:.0f} %",
            time_left(watcher.last_progress) if watcher.running else "",
        )[index.column()]

    @staticmethod
    def _state_text(watcher: JobWatcher) -> str:
        if watcher.state is not None:
            status = watcher.state.status.capitalize()
            read = level0_text(watcher.summary) if watcher.state.status == "done" else ""
            count = len(watcher.warnings)
            warned = f"{count} warning{'s' if count > 1 else ''}" if count else ""
            why = watcher.state.message if watcher.state.status == "paused" else ""  # it waits for somebody
            return f"{status}: {why}" if why else " · ".join(filter(None, (status, warned, read)))
        phase = watcher.last_progress.get("phase")
        return str(phase).capitalize() if phase else "Starting"
