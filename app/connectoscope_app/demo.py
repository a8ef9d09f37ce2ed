"""``make run``: open the window on a bundled sample and segment its synapses.

With a display the window stays open. Without one, or with ``CONNECTOSCOPE_HEADLESS=1``, the program starts itself
again under Xvfb, drives the journey to its end, saves ``connectoscope.png``, says what it found and exits.

``--images DIR`` makes the pictures of the guides, ``--images DIR --cascade VOLUME`` those of a cascade on a volume of cells,
``--images DIR --adapt VOLUME`` those of new tissue.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from connectoscope.errors import ConnectoscopeError, Stopped, UserError

if TYPE_CHECKING:
    from connectoscope_app.window import MainWindow

SOURCE = "sample:vnc"
_UNDER_XVFB = "CONNECTOSCOPE_UNDER_XVFB"
_SCREEN = (1600, 1000)
_PATIENCE = 900.0  # seconds for the whole journey on a slow machine
_TICK_MS = 50
Condition = Callable[[], bool]


def is_headless() -> bool:
    """Asked for, or nothing to draw on."""
    if os.environ.get("CONNECTOSCOPE_HEADLESS") == "1":
        return True
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and not has_display


def start_under_xvfb() -> None:
    """Replace this process by itself under a virtual screen.

    Raises:
        UserError: Xvfb is not installed.
    """
    runner = shutil.which("xvfb-run")
    if runner is None:
        raise UserError(
            "there is no display and no xvfb-run: install the package xvfb, or start this on a desktop"
        )
    os.environ[_UNDER_XVFB] = "1"
    screen = f"-screen 0 {_SCREEN[0]}x{_SCREEN[1]}x24"
    command = [runner, "-a", "-s", screen, sys.executable, "-m", "connectoscope_app.demo", *sys.argv[1:]]
    os.execv(runner, command)


class Journey:
    """Drives the window along the journey; each step waits for what the window shows, on its own event loop.

    Args:
        window: A shown window.
        destination: Where the result goes; None: where the form proposes.
        images: Folder for pictures before, during and after; None: none are taken.
    """

    source = SOURCE
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


def run_headless(images: Path | None, cells: str | None, tissue: str | None, xray: str | None) -> int:
    """The whole journey on the present display, with a configuration and a result that leave no trace.

    Args:
        images: Folder for pictures; None: none are taken.
        cells: Volume for the journey of a cascade.
        tissue: Volume for the journey to new tissue.
        xray: Volume for the journey from X-ray to EM. Without any of them: that of the sample.
    """
    with tempfile.TemporaryDirectory(prefix="connectoscope-demo-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("CONNECTOSCOPE_CONFIG", str(Path(folder) / "config"))
        from connectoscope_app.start import make_application, make_window

        application = make_application()
        window = make_window(application)
        window.resize(*_SCREEN)
        window.move(0, 0)
        if images is not None:
            images.mkdir(parents=True, exist_ok=True)
        journey = Journey(window, Path(folder) / "vnc-synapses.ome.zarr", images)
        if cells is not None:
            from connectoscope_app.demo_cascade import CascadeJourney

            journey = CascadeJourney(window, cells, Path(folder), images)
        elif tissue is not None:
            from connectoscope_app.demo_adapt import AdaptJourney

            journey = AdaptJourney(window, tissue, Path(folder), images)
        elif xray is not None:
            from connectoscope_app.demo_reconstruct import ReconstructJourney

            journey = ReconstructJourney(window, xray, Path(folder), images)
        journey.start(window.close, whole=True)
        application.exec()
    if journey.error is not None:
        sys.stderr.write(f"connectoscope: {journey.error}\n")
        return 1
    sys.stdout.write(journey.report + "\n")
    return 0


def run_in_window() -> int:
    """Open the window, start the job, and stay until it is closed."""
    from connectoscope_app.start import make_application, make_window, report_bugs

    application = make_application()
    window = make_window(application)
    report_bugs(window)
    journey = Journey(window, None, None)
    journey.start(lambda: None, whole=False)
    return int(application.exec())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m connectoscope_app.demo", description=__doc__)
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="save pictures before, during and after there"
    )
    parser.add_argument(
        "--cascade", metavar="VOLUME", help="plan and run a cascade on this volume of cells instead"
    )
    parser.add_argument("--adapt", metavar="VOLUME", help="bring a model to this volume instead")
    parser.add_argument("--reconstruct", metavar="VOLUME", help="make EM from this X-ray volume instead")
    arguments = parser.parse_args()
    headless = is_headless() or os.environ.get(_UNDER_XVFB) == "1"
    try:
        if headless and sys.platform.startswith("linux") and os.environ.get(_UNDER_XVFB) != "1":
            start_under_xvfb()
        sys.exit(
            run_headless(arguments.images, arguments.cascade, arguments.adapt, arguments.reconstruct)
            if headless
            else run_in_window()
        )
    except UserError as error:
        sys.stderr.write(f"connectoscope: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
