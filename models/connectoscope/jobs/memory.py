"""How much memory was used, whether the system killed somebody for it, and what is kept for the next use."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from connectoscope.jobs.limits import CGROUPS, PROC, control_groups, counter

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENAS = -1, -3, -8  # M_* of malloc.h


def oom_kills(proc: Path = PROC, cgroups: Path = CGROUPS) -> dict[str, int]:
    """How often the kernel has killed for want of memory, by counter: the host's and our control groups'.

    Compared before and after, they tell an out-of-memory kill from any other SIGKILL. Empty where the system
    does not count (Windows, macOS).
    """
    counters = {"host": counter(proc / "vmstat", "oom_kill")}
    for folder in control_groups("memory", proc, cgroups):
        for name in ("memory.events", "memory.oom_control"):  # of version 2 and 1
            counters[str(folder / name)] = counter(folder / name, "oom_kill")
    return {name: count for name, count in counters.items() if count is not None}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that host or device memory ran out (torch is not imported for it)."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "out of memory" in text or "not enough memory" in text
    )


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB; None where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return round(float(info.peak_wset) / 2**20, 1)
    try:
        import resource
    except ImportError:
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)  # bytes on macOS


def keep_freed_memory() -> None:
    """Freed memory stays with this process, for its main thread to use again: nothing outside of glibc.

    Otherwise glibc returns every large block to the system, which clears the next one page by page: a fifth of a network's
    time on large tiles, for a peak that is the less by a third. What the many other threads free stays where all of them
    find it again, instead of a heap for each.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not in musl
        if mallopt is not None:
            if mallopt(
                _MMAP_THRESHOLD, 2**31 - 1
            ):  # before glibc 2.35 it refuses, and its own ways are better
                mallopt(_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_ARENAS, 2)
