"""The window is driven along a journey, step by step, as a user would."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from connectoscope.errors import ConnectoscopeError, Stopped, UserError

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

_PATIENCE = 900.0  # seconds for the whole journey on a slow machine
_TICK_MS = 50
Condition = Callable[[], bool]


class Journey:
    """Drives the window along the journey; each step waits for what the window shows, on its own event loop.

    Args:
        window: A shown window.
        destination: Where the result goes; None: where the form proposes.
        images: Folder for pictures before, during and after; None: none are taken.
    """

    source = "sample:vnc"
    menu = ("Segment", "Synapses")

    def __init__(self, window: MainWindow, destination: Path | None, images: Path | None) -> None:
        from qtpy.QtCore import QTimer

        self.window = window
        self.report = ""
        self.error: str | None = None
        self._destination = destination
        self._images = images
        self._deadline = time.monotonic() + _PATIENCE
        self._done: Callable[[], None] = lambda: None
        self._waiting: Condition = lambda: True
        self._steps: Iterator[Condition] = iter(())
        self._timer = QTimer(window)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._tick)

    def start(self, done: Callable[[], None], *, whole: bool) -> None:
        """Begin; ``done`` is called at the end. ``whole``: also wait for the result and look at it."""
        self._done = done
        self._steps = self._story() if whole else self._submit()
        self._timer.start()

    def _tick(self) -> None:
        try:
            if self.window.error_dialog is not None:
                raise UserError(self.window.error_dialog.line.text())
            if time.monotonic() > self._deadline:
                raise Stopped(f"the journey was not over after {_PATIENCE:.0f} s")
            if self._waiting():
                self._waiting = next(self._steps)
        except StopIteration:
            self._end(None)
        except ConnectoscopeError as error:
            self._end(str(error))

    def _end(self, error: str | None) -> None:
        self._timer.stop()
        self.error = error
        self._done()

    def _submit(self, picture: str = "") -> Iterator[Condition]:
        window = self.window
        window.open_volume(self.source)
        yield lambda: len(window.viewer.layers) > 0
        window.commands.trigger(window.commands.find(*self.menu))
        yield from self._run(self._destination, picture)

    def _run(self, destination: Path | None, picture: str = "") -> Iterator[Condition]:
        """Run what the form says, after a picture of it."""
        window = self.window
        form, jobs = window.task_panel.form, window.jobs.model.rowCount()
        if form is None:
            raise UserError("the form of the task did not open")
        if destination is not None:
            form.set_values({"destination": str(destination)})
        yield after(1.0)  # the first picture is drawn, models are listed
        if picture:
            self._picture(picture)
        window.task_panel.run()
        yield lambda: window.jobs.model.rowCount() > jobs

    def _end_of_job(self) -> Iterator[Condition]:
        """Wait for the end of the newest job.

        Raises:
            Stopped: it did not finish.
        """
        watcher = self.window.jobs.model.watcher(0)
        yield lambda: not watcher.running
        state = watcher.state
        if state is None or state.status != "done":
            raise Stopped(state.message if state is not None and state.message else "the job did not finish")

    def _story(self) -> Iterator[Condition]:
        yield from self._submit("before")
        window = self.window
        watcher = window.jobs.model.watcher(0)
        yield lambda: not watcher.running or watcher.last_progress.get("fraction", 0) >= 0.5
        if watcher.running:
            self._picture("during")
        yield from self._end_of_job()
        tables = {event["name"]: event["path"] for event in watcher.results if event["kind"] == "table"}
        yield after(1.0)  # the last blocks are drawn
        yield lambda: not tables or window.tables.table.model is not None
        if window.tables.table.model is not None and window.tables.table.model.rowCount():
            window.docks["Objects"].raise_()
            view = window.tables.table.view
            view.selectRow(0)
            view.clicked.emit(view.model().index(0, 0))  # flies there
            yield after(0.5)
            window.viewer.reset_view()  # its section, all of it
        yield after(1.0)
        self._picture("after")
        window.grab().save("connectoscope.png")
        if self._images is not None:
            theme = window.settings.theme
            window.set_theme("light" if theme != "light" else "dark")
            yield after(1.0)
            self._picture("after-light" if theme != "light" else "after-dark")
            window.set_theme(theme)
        found = ", ".join(f"{_rows(Path(path))} {name}" for name, path in tables.items()) or "no objects"
        seconds = (watcher.summary or {}).get("seconds")
        took = f" in {seconds:.1f} s" if isinstance(seconds, (int, float)) else ""
        self.report = (
            f"found {found} in {self.source}{took}; the window is in {Path('connectoscope.png').absolute()}"
        )

    def _picture(self, name: str) -> None:
        if self._images is not None:
            self.window.grab().save(str(self._images / f"{name}.png"))


def after(seconds: float) -> Condition:
    """True when so much time has passed from now."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def _rows(table: Path) -> int:
    return max(0, len(table.read_text(encoding="utf-8").splitlines()) - 1)
