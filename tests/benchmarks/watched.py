"""A command with the memory that it and all processes it starts hold at most."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS = 0.1  # between two looks


@dataclass(frozen=True)
class Watched:
    """``peak_mb``: of the processes together, pages that they share counted once (PSS); or what one alone had at most."""

    seconds: float
    peak_mb: float
    stdout: str


def watch(command: list[object], **options: object) -> Watched:
    """Run a command that must succeed, and look at its processes ten times a second (Linux).

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err, **options)  # type: ignore[call-overload]
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _held(process.pid))
            time.sleep(SECONDS)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed: {(out.read() + err.read()).decode()[-2000:]}")
        return Watched(seconds, peak, out.read().decode())


def _held(pid: int) -> float:
    """MB held now by a process and those that it started; no less than the most that one of them ever held."""
    try:
        parent = psutil.Process(pid)
        tree = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0.0
    together, most = 0.0, 0.0
    for process in tree:
        try:
            together += process.memory_full_info().pss / 2**20
            with Path(f"/proc/{process.pid}/status").open(encoding="utf-8") as file:
                high = next((line for line in file if line.startswith("VmHWM:")), "VmHWM: 0")
            most = max(most, int(high.split()[1]) / 1024)
        except (psutil.Error, OSError):
            continue  # it has ended
    return max(together, most)
