"""*Check*: what a run will need, found out by one block in a process of its own."""

from __future__ import annotations

from qtpy.QtCore import QObject, Signal

from connectoscope.jobs.folder import JobFolder, JobState
from connectoscope.tasks.base import load_task
from napari_connectoscope.jobs import JobWatcher
from napari_connectoscope.submission import Submission
from napari_connectoscope.threads import background


class CheckController(QObject):
    """Runs one check at a time; a newer one takes the place of an older one."""

    told = Signal(str)  # lines for people
    failed = Signal(str)  # one line

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._watcher: JobWatcher | None = None

    def run(self, submission: Submission) -> None:
        """Check what ``submission`` would run."""
        self.stop()
        self.told.emit("Trying one block …")
        background(self, submission.check, self._watch, self.failed.emit)

    def stop(self) -> None:
        """End the check that is under way."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.folder.cancel()
            self._watcher.deleteLater()
            self._watcher = None

    def _watch(self, folder: JobFolder) -> None:
        self.stop()
        self._watcher = JobWatcher(folder, self)
        self._watcher.ended.connect(self._ended)

    def _ended(self, state: JobState) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        watcher.deleteLater()
        render = load_task(watcher.folder.request.task).render
        if watcher.summary is None or render is None:
            self.failed.emit(state.message)
        else:
            warnings = (f"⚠ {text}" for text in watcher.summary["warnings"])
            self.told.emit("\n".join([render(watcher.summary), *warnings]))
        background(None, watcher.folder.remove, lambda _: None)
