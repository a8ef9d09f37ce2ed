"""*Check*: what a run will need, found out by one block in a process of its own."""

from __future__ import annotations

import threading
import time

from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal

from connectoscope.jobs.folder import JobFolder, JobState
from connectoscope.tasks.base import load_task
from napari_connectoscope.jobs import JobWatcher
from napari_connectoscope.submission import Submission
from napari_connectoscope.threads import background

_END_SECONDS = 20.0  # what the process of a stopped check gets to end


class CheckController(QObject):
    """Runs one check at a time; a newer one takes the place of an older one."""

    told = Signal(str)  # lines for people
    failed = Signal(str)  # one line

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._watcher: JobWatcher | None = None
        self._generation = 0  # answers about an older form are dropped

    def run(self, submission: Submission) -> None:
        """Check what ``submission`` would run."""
        self.stop()
        generation = self._generation
        self.told.emit("Trying one block …")
        background(  # answered in any case: a folder that nobody waits for has to go
            None,
            submission.check,
            lambda folder: self._watch(folder, generation),
            lambda text: self._fail(text, generation),
        )

    def stop(self) -> None:
        """End the check that is under way."""
        self._generation += 1
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.deleteLater()
            _discard(self._watcher.folder)
            self._watcher = None

    def _watch(self, folder: JobFolder, generation: int) -> None:
        if generation != self._generation or not isalive(self):
            _discard(folder)
            return
        self._watcher = JobWatcher(folder, self)
        self._watcher.ended.connect(self._ended)

    def _fail(self, text: str, generation: int) -> None:
        if generation == self._generation and isalive(self):
            self.failed.emit(text)

    def _ended(self, state: JobState) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        watcher.deleteLater()
        if watcher.summary is None or (render := load_task(watcher.folder.request.task).render) is None:
            self.failed.emit(state.message)
        else:
            warnings = (f"⚠ {text}" for text in watcher.warnings)
            self.told.emit("\n".join([render(watcher.summary), *warnings]))
        _discard(watcher.folder)


def _discard(folder: JobFolder) -> None:
    """End a check; its folder goes after its process, also when the window closes meanwhile."""

    def remove() -> None:
        end = time.monotonic() + _END_SECONDS
        while folder.holder() is not None and time.monotonic() < end:
            time.sleep(0.05)
        folder.remove()

    folder.cancel()
    threading.Thread(target=remove, name="discard check").start()  # Python waits for it, Qt does not
