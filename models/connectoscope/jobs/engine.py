"""Runs the task of a job folder: ``python -m connectoscope.jobs.engine JOB``, a child of the supervisor.

Whatever happens ends as one event and one exit code; the traceback of a bug goes to ``engine.log``.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

from connectoscope.errors import (
    Cancelled,
    ConnectoscopeError,
    Corrupt,
    Stopped,
    Unreadable,
    Unwritable,
    UserError,
)
from connectoscope.jobs.context import Context
from connectoscope.jobs.events import OUT_OF_SPACE, Listener
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.memory import is_out_of_memory, keep_freed_memory, peak_memory_mb
from connectoscope.jobs.request import parse_parameters
from connectoscope.tasks.base import load_task
from connectoscope.volumes.stores import use_engine_cache

OUT_OF_MEMORY = 12
"""Exit status of an engine that ran out of memory without being killed; never seen by the user."""

_IS_LINUX = sys.platform == "linux"
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_OUT_OF_REACH = frozenset(  # a disk that fails, a file server that is away
    getattr(errno, name)
    for name in ("EIO", "ENODEV", "ENXIO", "ETIMEDOUT", "ESTALE", "ENOTCONN", "EREMOTEIO", "EHOSTDOWN")
    if hasattr(errno, name)
)
_interrupted = threading.Event()
_ENDS = {UserError: "error", Cancelled: "cancelled", Stopped: "paused"}


def execute(job: JobFolder, *, tile_scale: int = 0, listener: Listener | None = None) -> int:
    """Run the job's task in this process, to its last event.

    Returns:
        The exit code; :data:`OUT_OF_MEMORY` without an event, for the caller to decide what to do.
    """
    began = time.monotonic()
    events = job.events(listener)
    context: Context | None = None
    try:
        request = job.request
        task = load_task(request.task)
        parameters = parse_parameters(task, request.parameters)
        context = Context(job, request, tile_scale=tile_scale, listener=listener)
        if request.device in ("cuda", "mps"):
            _ = context.device  # asked for and not there: say so before anything is read
        summary = task.run(parameters, context)
        context.flush_progress()
        events.write("finished", summary=_completed(summary, task.name, began, context), exit_code=0)
        job.writing_path.unlink(missing_ok=True)
        return 0
    except BaseException as error:
        return _ended_by(error, job, events_listener=listener, context=context)


def _completed(summary: dict[str, Any], task: str, began: float, context: Context) -> dict[str, Any]:
    """The summary with what every task reports."""
    common = {
        "task": task,
        "seconds": round(time.monotonic() - began, 2),
        "peak_memory_mb": peak_memory_mb(),
        "warnings": context.warnings,
    }
    return {**common, **summary}


def _ended_by(
    error: BaseException, job: JobFolder, *, events_listener: Listener | None, context: Context | None
) -> int:
    """Turn what ended the run into its last event and exit code."""
    if isinstance(error, (SystemExit, GeneratorExit)):
        raise error
    if _interrupted.is_set() and not isinstance(error, ConnectoscopeError):
        error = KeyboardInterrupt()  # as what it came out of a C extension that was loading
    if not isinstance(error, (ConnectoscopeError, KeyboardInterrupt)):
        with contextlib.suppress(OSError), job.log_path.open("a", encoding="utf-8") as log:
            traceback.print_exception(error, file=log)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    error = understood(error, job)
    if context is not None:
        with contextlib.suppress(OSError):
            context.flush_progress()
    events = job.events(events_listener)
    if isinstance(error, ConnectoscopeError):
        kind = next((name for type_, name in _ENDS.items() if isinstance(error, type_)), "error")
        events.write(kind, message=str(error), exit_code=error.exit_code)
        return error.exit_code
    events.write("error", message=bug_message(error, job), exit_code=1, log=str(job.log_path))
    return 1


def interrupt(number: int, frame: FrameType | None) -> None:
    """For signals that mean cancel, in a process that runs one job."""
    _interrupted.set()
    raise KeyboardInterrupt


def bug_message(error: BaseException | str, job: JobFolder) -> str:
    """The one line for an end that nobody foresaw."""
    what = error if isinstance(error, str) else f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    return f"unexpected error ({what}); this is a bug, please report it with the log {job.log_path}"


def understood(error: BaseException, job: JobFolder) -> BaseException:
    """Errors of the machine and the keyboard in our words; others as they are."""
    if isinstance(error, KeyboardInterrupt):
        return Cancelled("cancelled; what was finished is kept")
    unreadable = error if isinstance(error, Unreadable) else error.__cause__
    if isinstance(unreadable, Unreadable):
        return _without_input(error, unreadable, job)
    if isinstance(error, Unwritable):
        return _of_system(error.__cause__, job) or error
    return error if isinstance(error, ConnectoscopeError) else _of_system(error, job) or error


def _of_system(error: BaseException | None, job: JobFolder) -> ConnectoscopeError | None:
    """A full or failing disk or a lost permission in our words; None for anything else."""
    number = error.errno if isinstance(error, OSError) else None
    # TensorStore reports in its own exceptions, with the system's text inside.
    if number in OUT_OF_SPACE or any(os.strerror(n) in str(error) for n in OUT_OF_SPACE):
        return Stopped("the disk is full; make room, then resume")
    away = next((n for n in _OUT_OF_REACH if n == number or os.strerror(n) in str(error)), None)
    if away is not None:
        return Stopped(
            f"a disk or server cannot be reached ({os.strerror(away).lower()}); mend that, then resume"
        )
    told = next((os.strerror(n) for n in _NOT_WRITABLE if os.strerror(n) in str(error)), None)
    if number in _NOT_WRITABLE or isinstance(error, PermissionError) or told:
        where = getattr(error, "filename", None) or "the destination"
        reason = (getattr(error, "strerror", None) or told or "permission denied").lower()
        if job.has_begun():
            return Stopped(f"{where} is no longer accessible ({reason}); fix that, then resume")
        return UserError(
            f"{where} is not accessible ({reason}); choose another place or ask for the permission"
        )
    return None


def _without_input(error: BaseException, unreadable: Unreadable, job: JobFolder) -> ConnectoscopeError:
    """The source could not be read on: nobody's fault here, so what was begun can go on."""
    text = str(error)
    if isinstance(unreadable, Corrupt) and job.request.parameters.get("skip_corrupt") is False:
        text += ". --skip-corrupt takes damaged chunks as 0"
    if isinstance(error, Stopped):
        return Stopped(text)
    return Stopped(f"{text}; fix that, then resume") if job.has_begun() else UserError(text)


def die_with_parent(parent: int) -> None:
    """Make sure that this process never outlives ``parent``, even if that is killed."""
    if _IS_LINUX:
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(Stopped.exit_code)
        return
    threading.Thread(target=_watch_parent, args=(parent,), name="parent watch", daemon=True).start()


def _watch_parent(parent: int) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        psutil.Process(parent).wait()
    os._exit(Stopped.exit_code)


def lower_priority() -> None:
    """Let the window and everybody else go first."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process().nice(getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 10))


def main() -> None:
    """The engine process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--tile-scale", type=int, default=0)
    options = parser.parse_args()
    die_with_parent(options.parent)
    faulthandler.enable()  # a crash in native code leaves its stack in the log
    keep_freed_memory()
    use_engine_cache()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor passes it on as the file "cancel"
    job = JobFolder(options.folder)
    if job.request.background:
        lower_priority()
    code = execute(job, tile_scale=options.tile_scale)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of libraries must not keep a finished engine alive


if __name__ == "__main__":
    main()
