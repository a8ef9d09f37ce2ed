"""Running a job folder: a thin supervisor (no torch, no numpy) over an engine process that may die.

::

    window / terminal ── run JOB ── supervisor ── engine (loads torch, does the work)
                          (own session)   │  lock, cancel, death, out of memory
                                          └─ events.jsonl  ← both append, anybody reads

Host memory that runs out is a SIGKILL; only another process can see that, halve the tile and start again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from connectoscope.errors import Cancelled, ConnectoscopeError, Stopped
from connectoscope.jobs.context import threads_of
from connectoscope.jobs.engine import OUT_OF_MEMORY, bug_message, understood
from connectoscope.jobs.events import FINAL_EVENTS, EventWriter, Listener, last_event
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.lock import JobLock
from connectoscope.jobs.memory import oom_kills
from connectoscope.jobs.signals import answered

CANCEL_SECONDS = 5.0  # what the engine gets to finish its block
POLL_SECONDS = 0.1
LEAVE_SECONDS = (
    20.0  # what an engine gets between its last word and its end; torch unloads slowly on a busy machine
)
MOST_TILE_SCALE = 2
_PYTHON = (sys.executable, "-P", "-m")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_job(
    folder: JobFolder | Path | str,
    report: Listener | None = None,
    *,
    count_oom_kills: Callable[[], Mapping[str, int]] = oom_kills,
) -> int:
    """Run or resume a job folder to its end, supervising an engine process.

    Args:
        folder: The job folder.
        report: Called in this thread with each event of this run.
        count_oom_kills: The system's out-of-memory counters; another one for tests.

    Returns:
        The exit code: 0 done, 1 bug, 2 unusable input, 3 cancelled, 4 stopped and resumable.

    Raises:
        UserError: when this is no job folder, or somebody else runs it.
        Stopped: when the job folder cannot be written any more, or somebody else has taken it over.
    """
    job = folder if isinstance(folder, JobFolder) else JobFolder(folder)
    job.check_asked()  # refused before anything is written
    job.let_leave(LEAVE_SECONDS)
    try:
        with job.lock() as lock:
            job.check_asked()
            return _Supervisor(job, lock, report, count_oom_kills).run()
    except OSError as error:  # the job folder itself cannot be written any more
        meaning = understood(error, job)
        if meaning is error:
            raise
        raise meaning from error


def start_detached(folder: JobFolder | Path | str) -> None:
    """Start ``connectoscope run JOB`` in a session of its own, so that it outlives this process."""
    job = folder if isinstance(folder, JobFolder) else JobFolder(folder)
    job.cancel_path.unlink(missing_ok=True)
    with (job.path / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [*_PYTHON, "connectoscope", "run", str(job.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **_own_session(),
        )
    # Reaped when it ends, while we live: no zombie, and no warning that a Popen was forgotten.
    threading.Thread(target=process.wait, name="reap job", daemon=True).start()


class _Supervisor:
    """One run of one job, the lock already held."""

    def __init__(
        self,
        job: JobFolder,
        lock: JobLock,
        report: Listener | None,
        count_oom_kills: Callable[[], Mapping[str, int]],
    ) -> None:
        self.job = job
        self.lock = lock
        self.report = report
        self.count_oom_kills = count_oom_kills
        self.interrupts = 0
        self.offset = job.events_path.stat().st_size if job.events_path.exists() else 0

    def run(self) -> int:
        job = self.job
        job.put_back()
        resumed = job.has_begun() and job.state().status != "done"
        restarted = last_event(job.events_path, lambda event: event["type"] == "restarted")
        tile_scale = int(restarted["tile_scale"]) if restarted is not None else 0
        job.forget_old_cancel()
        self.events: EventWriter = job.events()
        self.events.write(
            "started",
            pid=os.getpid(),
            resumed=resumed,
            tile_scale=tile_scale,
            background=job.request.background,
        )
        # Ctrl-C and a polite kill mean cancel; twice, at once.
        with answered(self._interrupted, "SIGINT", "SIGTERM", "SIGHUP"):
            return self._run_engines(tile_scale)

    def _run_engines(self, tile_scale: int) -> int:
        """One engine after another while memory runs out; normally one."""
        while True:
            if self.job.cancel_path.exists():  # it was cancelled while it waited for its turn
                return self._end("cancelled", Cancelled("cancelled before it began"))
            before = dict(self.count_oom_kills())
            status, killed_by_us = self._run_engine(tile_scale)
            self.job.put_back()  # it may have been killed
            if killed_by_us:
                return self._end("cancelled", Cancelled("cancelled; what was finished is kept"))
            after = self.count_oom_kills()
            starved = any(count > before.get(name, count) for name, count in after.items())
            if status != OUT_OF_MEMORY and not (status == -_SIGKILL and starved):
                return self._ended_with(status)
            if tile_scale == MOST_TILE_SCALE:
                return self._end(
                    "paused",
                    Stopped("out of memory even with the smallest tiles; close other programs, then resume"),
                )
            tile_scale += 1
            self.events.write(
                "restarted",
                tile_scale=tile_scale,
                message="out of memory: going on with tiles of half the size",
            )

    def _run_engine(self, tile_scale: int) -> tuple[int, bool]:
        """Exit status of one engine process, and whether we had to kill it after a cancel."""
        job = self.job
        threads = str(threads_of(job.request))
        command = [*_PYTHON, "connectoscope.jobs.engine", str(job.path), "--parent", str(os.getpid())]
        with job.log_path.open("ab") as log:
            engine = subprocess.Popen(
                [*command, "--tile-scale", str(tile_scale)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **dict.fromkeys(_THREAD_VARIABLES, threads)},
                **_own_session(),
            )
        try:
            self.lock.add_engine(engine.pid)
            cancelled_at: float | None = None
            while True:
                try:
                    engine.wait(POLL_SECONDS)
                    return engine.returncode, False
                except subprocess.TimeoutExpired:
                    pass
                self.lock.check()
                self._report()
                if cancelled_at is None and (self.interrupts or job.cancel_path.exists()):
                    job.cancel()
                    cancelled_at = time.monotonic()
                    self.events.write("log", message="cancelling; finished blocks are kept …")
                if cancelled_at is not None and (
                    self.interrupts > 1 or time.monotonic() - cancelled_at > CANCEL_SECONDS
                ):
                    return self._kill(engine), True
        except BaseException:
            self._kill(engine)
            raise

    def _kill(self, engine: subprocess.Popen[bytes]) -> int:
        if sys.platform == "win32":
            engine.kill()
        else:
            os.killpg(engine.pid, signal.SIGKILL)  # with its own helpers
        return engine.wait()

    def _ended_with(self, status: int) -> int:
        """An engine that came to an end of its own, orderly or not."""
        last = last_event(self.job.events_path, lambda e: e["type"] in FINAL_EVENTS or e["type"] == "started")
        if last is not None and last["type"] in FINAL_EVENTS and last.get("exit_code") == status:
            self._report()
            return status
        if status < 0 and -status in _ENDED_FROM_OUTSIDE:
            name = signal.Signals(-status).name
            return self._end(
                "paused",
                Stopped(f"the engine was ended from outside ({name}); what was finished is kept, resume it"),
            )
        place = self.job.request.destination
        # From here on: a full disk has not taken the last event.
        if status == 0 and place is not None and place.exists():
            self._report()
            return status
        if status == Cancelled.exit_code:
            return self._end("cancelled", Cancelled("cancelled; what was finished is kept"))
        if status == Stopped.exit_code:
            return self._end("paused", Stopped("stopped; the disk may be full: make room, then resume"))
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return self._end("error", ConnectoscopeError(bug_message(f"the engine ended with {how}", self.job)))

    def _end(self, kind: str, error: ConnectoscopeError) -> int:
        event = self.events.write(kind, message=str(error), exit_code=error.exit_code)
        self._report()
        if self.report is not None and last_event(self.job.events_path, lambda e: e == event) is None:
            self.report(event)  # the disk is full
        return error.exit_code

    def _report(self) -> None:
        if self.report is not None:
            events, self.offset = self.job.read_events(self.offset)
            for event in events:
                self.report(event)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1


_SIGKILL = 9
_ENDED_FROM_OUTSIDE = frozenset({_SIGKILL, signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", 1)})


def _own_session() -> dict[str, Any]:
    """Arguments of Popen for a process that neither Ctrl-C nor a closing window reaches."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
