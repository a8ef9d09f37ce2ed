"""The lock of a job folder: who runs it, and whether that process still lives.

The file ``lock`` holds process table, pid and start time of the process (a pid alone is soon somebody else's), and a name
of its own; its modification time is the heartbeat. Who shares the process table looks there, who does not goes by the
heartbeat: on another host, or in a container of the same name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from connectoscope.errors import Stopped, UserError

HEARTBEAT_SECONDS = 5.0
SETTLE_SECONDS = 1.0  # a starter that has moved a fresh lock aside puts it back within that time
SILENT_SECONDS = 60.0  # another host that has not been heard of for so long is taken for dead
WAIT_FOR_ENGINE_SECONDS = 5.0  # how long the engine of a dead supervisor gets to notice
_HAS_PROC = Path("/proc/self/stat").exists()


class Busy(UserError):
    """A living process holds the lock."""


def process_started(pid: int) -> float | None:
    """Start time of a living process (in the system's own units); None without one, or of a zombie."""
    if _HAS_PROC:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else float(fields[19])
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


@functools.cache
def process_table() -> str:
    """The host, and on Linux which one of its name since it started, and whose process ids: containers have their own."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{socket.gethostname()} {booted} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


@dataclass(frozen=True)
class Holder:
    """The process that holds (or held) a lock."""

    host: str
    pid: int
    started: float

    @classmethod
    def this_process(cls) -> Holder:
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Holder:
        return cls(process_table(), pid, process_started(pid) or 0.0)

    @property
    def near(self) -> bool:
        """Whether our process table knows it."""
        return self.host == process_table()

    def alive(self, silent: Callable[[], float]) -> bool:
        """Whether it still runs; ``silent`` gives the seconds since its last heartbeat."""
        return process_started(self.pid) == self.started if self.near else silent() < SILENT_SECONDS


def lock_holder(path: Path) -> Holder | None:
    """Who holds the lock at ``path``; None when nobody does or the holder is dead."""
    holder = _read(path, "holder")
    if holder is None:
        return None
    try:
        return holder if holder.alive(lambda: _age(path)) else None
    except FileNotFoundError:
        return None


class JobLock:
    """Holds the lock while the ``with`` block runs, with a heartbeat from a thread.

    Raises:
        UserError: when somebody else runs the job.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = uuid.uuid4().hex
        self._own = path.with_name(f"lock.{self._name}")  # where a record is made ready
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._me = Holder.this_process()
        self._heart = threading.Thread(target=self._beat, name="job heartbeat", daemon=True)

    def __enter__(self) -> JobLock:
        while not self._create():
            self._remove_stale()
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()

    def check(self) -> None:
        """Raises Stopped once the lock is another's, who took us for dead: what is in the folder is theirs now."""
        if self._lost.is_set():
            raise Stopped(
                f"{self._path.parent} could not be reached for a while, and was taken over by another process; "
                "wait for that one, or resume when it has ended"
            )

    def add_engine(self, pid: int) -> None:
        """Note the engine, so that who resumes after a dead supervisor waits until that is gone, too."""
        self.check()
        self._own.write_text(self._record(Holder.of(pid)), encoding="utf-8")
        self._own.replace(self._path)

    def _create(self) -> bool:
        try:
            try:
                self._own.write_text(self._record(None), encoding="utf-8")
                _put_whole(self._own, self._path)
            finally:
                self._own.unlink(missing_ok=True)
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(f"cannot write in {self._path.parent} ({error.strerror})") from None
        return True

    def _remove_stale(self) -> None:
        """Take a dead process's lock away, or say who is alive.

        Renaming lets only one of two starters win; who then finds that he took a fresh lock puts it back.
        """
        _refuse_living(self._path)
        self._await_engine(self._path)  # a refusal, or our own end, leaves the lock that tells of the engine
        taken = self._own
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(taken)
            try:
                if lock_holder(taken) is not None:
                    with contextlib.suppress(FileExistsError):
                        _put_whole(taken, self._path)
                    _refuse_living(taken)
                self._await_engine(taken)
            finally:
                taken.unlink(missing_ok=True)

    def _await_engine(self, taken: Path) -> None:
        engine = _read(taken, "engine")
        end = time.monotonic() + WAIT_FOR_ENGINE_SECONDS
        while engine is not None and engine.near and process_started(engine.pid) == engine.started:
            if time.monotonic() > end:
                raise Busy(f"the engine of this job still runs (process {engine.pid}); end it and try again")
            time.sleep(0.05)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # the disk is away
                if not self._is_ours() and not self._stop.wait(SETTLE_SECONDS) and not self._is_ours():
                    self._lost.set()
                    return
                os.utime(self._path)

    def _is_ours(self) -> bool:
        """Raises OSError when the folder cannot be read now."""
        try:
            return bool(json.loads(self._path.read_text(encoding="utf-8"))["name"] == self._name)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def _record(self, engine: Holder | None) -> str:
        told = {"name": self._name, "holder": vars(self._me), "engine": vars(engine) if engine else None}
        return json.dumps(told)


def _put_whole(file: Path, place: Path) -> None:
    """``file`` as ``place``, too, with all that it holds: an empty lock would look like that of a dead process.

    Raises:
        FileExistsError: there is one already.
    """
    try:
        os.link(file, place)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        text = file.read_text(encoding="utf-8")
        with place.open("x", encoding="utf-8") as made:
            made.write(text)


def _refuse_living(path: Path) -> None:
    holder = lock_holder(path)
    if holder is not None:
        where = "" if holder.near else f" on {holder.host.partition(' ')[0]}"
        raise Busy(
            f"{path.parent} is already running (process {holder.pid}{where}); wait for it or cancel it"
        )


def _age(path: Path) -> float:
    """Seconds since ``path`` was touched, by the clock of its file server, which may not be ours."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix="lock.") as probe:
            now = os.fstat(probe.fileno()).st_mtime
    except OSError:  # we may only look
        now = time.time()
    return now - path.stat().st_mtime


def _read(path: Path, key: str) -> Holder | None:
    """A holder from a lock file; None when the file or the entry is missing or damaged."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))[key]
        return Holder(str(entry["host"]), int(entry["pid"]), float(entry["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
