"""A warm worker: ``connectoscope run --serve`` reads job folders from stdin and runs them one at a time.

For previews, where loading torch anew would take longer than the work. Answers go to the folders' events as
always; it ends with its stdin or with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from connectoscope.errors import ConnectoscopeError, Stopped
from connectoscope.jobs.engine import OUT_OF_MEMORY, die_with_parent, execute
from connectoscope.jobs.events import Listener
from connectoscope.jobs.folder import JobFolder


def serve(lines: TextIO) -> int:
    """Run the job folders named line by line until the input ends; returns the exit code."""
    die_with_parent(os.getppid())
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  (what the warmth is for)
    for line in lines:
        if not line.strip():
            continue
        try:
            run_here(JobFolder(line.strip()))
        except (ConnectoscopeError, OSError) as error:
            # No job folder, somebody else runs it, or it vanished meanwhile: nowhere else to say it.
            sys.stderr.write(f"connectoscope: {error}\n")
    return 0


def run_here(job: JobFolder, listener: Listener | None = None) -> int:
    """Run a job in this process, without an engine: quick tasks and previews. Returns the exit code.

    Raises:
        UserError: when this is no job folder, or somebody else runs it.
    """
    job.check_asked()
    with job.lock():
        job.check_asked()
        job.forget_old_cancel()
        events = job.events(listener)
        events.write("started", pid=os.getpid(), resumed=False, tile_scale=0)
        with job.log_path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            code = execute(job, listener=listener)
        if code != OUT_OF_MEMORY:
            return code
        error = Stopped("out of memory; choose a smaller part or close other programs, then try again")
        events.write("paused", message=str(error), exit_code=error.exit_code)
        return error.exit_code
