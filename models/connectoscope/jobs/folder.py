"""A job is a folder: request, events, lock, ledger and scratch of one run, beside its destination."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from connectoscope.errors import Taken, UserError
from connectoscope.jobs.events import FINAL_EVENTS, Event, EventWriter, Listener, last_event, read_events
from connectoscope.jobs.lock import Busy, Holder, JobLock, lock_holder
from connectoscope.jobs.replaced import put_back
from connectoscope.jobs.request import JobRequest

Status = Literal["queued", "running", "done", "failed", "cancelled", "paused"]
REMOVE_SECONDS = 5.0  # what a run that has told its end gets to be gone before its folder is removed
_NOTHING = (0, 0)  # what is replaced where nothing is
STATUS_OF: dict[str, Status] = {
    "finished": "done", "error": "failed", "cancelled": "cancelled", "paused": "paused",
}  # fmt: skip


@dataclass(frozen=True)
class JobState:
    """Where a job stands; ``message`` is one line for people, ``exit_code`` is None until it has ended."""

    status: Status
    message: str = ""
    exit_code: int | None = None

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")

    @property
    def resumable(self) -> bool:
        return self.status in ("paused", "cancelled", "failed")


class JobFolder:
    """The files of one job. Making the object touches nothing; see :meth:`create`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._asked: JobRequest | None = None  # what it was made for, or found again for
        self.request_path = self.path / "request.json"
        self.plan_path = self.path / "plan.json"
        self.events_path = self.path / "events.jsonl"
        self.ledger_path = self.path / "ledger"
        self.lock_path = self.path / "lock"
        self.cancel_path = self.path / "cancel"
        self.log_path = self.path / "engine.log"
        self.replaced_path = self.path / "replaced.json"  # see jobs/replaced.py
        self.writing_path = self.path / "writing"  # see Context.write_now
        self.run_name_path = self.path / "scratch" / "run.name"  # see segmentation/elsewhere.py

    @property
    def scratch(self) -> Path:
        """Folder for what only this run needs; made on first use."""
        folder = self.path / "scratch"
        folder.mkdir(exist_ok=True)
        return folder

    @classmethod
    def create(cls, request: JobRequest, path: Path | str | None = None) -> JobFolder:
        """Make the folder of a new job, or find that of the same, unfinished one.

        Args:
            request: What to do.
            path: Where; default ``DST.job`` beside the destination, a temporary folder without one.

        Raises:
            UserError: when the place cannot be written, is something else, is running, or holds another run
                (unless ``request.overwrite``).
        """
        if path is None and request.destination is None:
            folder = cls(tempfile.mkdtemp(prefix="connectoscope-"))
            folder.request_path.write_text(request.to_json(), encoding="utf-8")
            return folder
        folder = cls(path if path is not None else f"{request.destination}.job")
        folder._asked = request
        if os.path.lexists(folder.path) and not folder._empty():
            folder._check_free()
            with folder.lock():  # nobody begins a run of what is looked at here
                if folder._may_go_on(request):
                    folder._take_over(request)
                    return folder
                if folder.has_begun() and folder.state().status != "done":
                    request.check_files()  # what was begun is not thrown away for a slip of the pen
                old = folder._emptied()
            shutil.rmtree(old, ignore_errors=True)
        elif not folder.path.parent.is_dir():
            _make_models_folder(folder.path.parent)
        if request.overwrite and request.destination is not None:
            request = request.model_copy(update={"replaces": _identity(request.destination)})
        folder._make(request)
        return folder

    def check_asked(self) -> None:
        """Before a run, and again once it holds the lock.

        Raises:
            UserError: this is no job folder, or another command has taken the place since :meth:`create`.
        """
        try:
            request = self.request
        except UserError:
            if self._asked is None:
                raise
            request = None
        if self._asked is not None and (request is None or request.differences(self._asked)):
            raise UserError(
                f"{self.path} was taken by another command at the same moment; "
                "try again when that has ended, or choose another destination"
            )

    def may_replace(self, request: JobRequest) -> bool:
        """Whether a run with ``--overwrite`` that goes on has yet to take the old result away.

        What is at the destination is the old result while it is what was there when the job was made.
        """
        if request.replaces is None or request.destination is None or self._has_ledger():
            return False
        return _identity(request.destination) in (request.replaces, _NOTHING)

    @property
    def request(self) -> JobRequest:
        """Raises UserError when this is no job folder."""
        return JobRequest.load(self.request_path)

    def state(self) -> JobState:
        """Derived from events and lock, whoever ran it and however that ended."""
        event = last_event(self.events_path, lambda e: e["type"] in FINAL_EVENTS or e["type"] == "started")
        if event is not None and event["type"] in FINAL_EVENTS:
            default = 0 if event["type"] == "finished" else 1
            return JobState(
                STATUS_OF[event["type"]], str(event.get("message", "")), int(event.get("exit_code", default))
            )
        if self.holder() is not None:
            return JobState("running")
        if event is not None:
            return JobState("paused", "its process ended unexpectedly; what was finished is kept", 4)
        return (
            JobState("cancelled", "cancelled before it began", 3)
            if self.cancel_path.exists()
            else JobState("queued")
        )

    def holder(self) -> Holder | None:
        """The living process that runs the job."""
        return lock_holder(self.lock_path)

    def lock(self) -> JobLock:
        return JobLock(self.lock_path)

    def let_leave(self, seconds: float) -> None:
        """Wait for a run that has told its end and whose processes are about to be gone."""
        end = time.monotonic() + seconds
        while self.holder() is not None and self.state().ended and time.monotonic() < end:
            time.sleep(0.05)

    def cancel(self) -> None:
        """Ask the run to stop after the blocks at hand; it ends with exit code 3 and can be resumed."""
        with contextlib.suppress(FileNotFoundError):  # it has just finished, and the folder is gone
            self.cancel_path.touch()

    def forget_old_cancel(self) -> None:
        """Drop a ``cancel`` that an earlier run has already obeyed: its last event came later, by the clock of both files."""
        with contextlib.suppress(FileNotFoundError):
            if self.cancel_path.stat().st_mtime_ns <= self.events_path.stat().st_mtime_ns:
                self.cancel_path.unlink()

    def events(self, listener: Listener | None = None) -> EventWriter:
        return EventWriter(self.events_path, listener)

    def read_events(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events in whole lines after byte ``offset``, and the offset to go on from."""
        return read_events(self.events_path, offset)

    def has_begun(self) -> bool:
        """Whether some block was finished, so that there is something to resume."""
        return self._has_ledger() or (
            last_event(self.events_path, lambda e: e["type"] == "progress" and e.get("done", 0) > 0)
            is not None
        )

    def forget_progress(self) -> None:
        """Nothing has been done yet: no ledger, no plan, nothing in scratch."""
        self.ledger_path.unlink(missing_ok=True)
        self.plan_path.unlink(missing_ok=True)
        shutil.rmtree(self.scratch)

    def put_back(self) -> None:
        """The old result returns where a run that was to overwrite it has ended before a second block was done."""
        if self.replaced_path.exists():  # nobody elsewhere writes into it any more
            self.run_name_path.unlink(missing_ok=True)
        if put_back(self.replaced_path):  # what plan and ledger tell is of what has gone
            self.plan_path.unlink(missing_ok=True)
            if self.ledger_path.exists():
                os.truncate(self.ledger_path, 0)

    def remove(self) -> None:
        """Delete the folder, unless somebody runs it."""
        self.let_leave(REMOVE_SECONDS)
        old = self.path
        try:
            with self.lock():
                old = self._emptied()
        except Busy:
            return
        except (UserError, OSError):  # there is no room for a lock, or no folder
            pass
        shutil.rmtree(old, ignore_errors=True)

    def _emptied(self) -> Path:
        """Where the rest of the folder now is; the lock is held, and whoever makes the folder anew meets nothing of it."""
        self.put_back()
        # Events and ledger before what they speak of, lest a kill leaves them alone.
        for file in sorted(self.path.iterdir()):
            if file == self.request_path or file.name.startswith("lock"):
                continue
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    file.unlink()
        old = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            self.path.rename(old)
        except OSError:
            return self.path
        return old

    def _has_ledger(self) -> bool:
        return self.ledger_path.exists() and self.ledger_path.stat().st_size > 0

    def _empty(self) -> bool:
        return self.path.is_dir() and not any(self.path.iterdir())

    def _check_free(self) -> None:
        """Raises UserError when what is here is no job folder, or runs."""
        if not self.request_path.is_file():
            raise UserError(
                f"{self.path} exists and is not a job folder; move it away or choose another destination"
            )
        holder = self.holder()
        if holder is not None:
            raise UserError(
                f"{self.path} is already running (process {holder.pid}); "
                f"wait for it, or cancel it by making the file {self.cancel_path}"
            )

    def _may_go_on(self, request: JobRequest) -> bool:
        """Whether the existing folder is the one of ``request`` (True) or may be thrown away (False)."""
        if request.overwrite:
            return False
        done = self.state().status == "done"
        if done and request.destination is not None and not request.destination.exists():
            return False  # the result was deleted: make it anew
        different = self.request.differences(request)
        if not different:
            return True
        if not self.has_begun():
            return False
        what = "was made by" if done else "holds an unfinished run of"
        raise Taken(f"{self.path} {what} another request: {'; '.join(different)}")

    def _take_over(self, request: JobRequest) -> None:
        """What may change between two runs: who does the blocks, and switches that can be added."""
        own = self.request
        added = {name: request.parameters[name] for name in request.addable()}
        crew = {"workers": request.workers, "scheduler": request.scheduler}
        text = own.model_copy(update={**crew, "parameters": {**own.parameters, **added}}).to_json()
        if text != self.request_path.read_text(encoding="utf-8"):
            part = self.request_path.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(self.request_path)

    def _make(self, request: JobRequest) -> None:
        """The folder appears with its request inside, so that two starters cannot both think it theirs."""
        parent = self.path.parent
        if not parent.is_dir():
            raise UserError(
                f"the folder {parent} does not exist; make it first or choose another destination"
            )
        new = parent / f".{self.path.name}.{uuid.uuid4().hex}"
        try:
            new.mkdir()
        except OSError as error:
            raise UserError(
                f"cannot write in {parent} ({error.strerror}); choose another destination"
            ) from None
        try:
            (new / self.request_path.name).write_text(request.to_json(), encoding="utf-8")
            if self.path.is_dir():
                self.path.rmdir()  # an empty one
            new.rename(self.path)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if self.request_path.is_file():
                raise UserError(
                    f"{self.path} was made by another program at the same moment; try again"
                ) from None
            raise UserError(f"cannot make {self.path} ({error.strerror})") from None


def _identity(path: Path) -> tuple[int, int]:
    """Tells what is at ``path`` from what takes its place."""
    try:
        found = path.stat()
    except OSError:
        return _NOTHING
    return found.st_ino, found.st_mtime_ns


def _make_models_folder(path: Path) -> None:
    """The folder of the user's models comes into being with the first of them; other folders are the user's to make."""
    from connectoscope.zoo.places import user_models

    if path == user_models().absolute():
        path.mkdir(parents=True, exist_ok=True)
