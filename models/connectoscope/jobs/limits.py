"""What this process may use of the machine: in a container less than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def control_groups(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Folders of the control groups that this process is in, innermost first; none where the system has none.

    What a group may, its ancestors limit, too. In a container its own group may be mounted as the root.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2: one hierarchy
            root = cgroups
        elif controller in controllers.split(","):
            root = cgroups / controller
        else:
            continue
        folder = root / group.strip("/")
        yield folder
        while folder != root:
            folder = folder.parent
            yield folder


def cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Processors that we may run on, at most as many as the time that our groups are given would fill."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in control_groups("cpu", proc, cgroups):
        given = words(folder / "cpu.max")
        given = given or words(folder / "cpu.cfs_quota_us") + words(folder / "cpu.cfs_period_us")
        if len(given) == 2 and all(word.isdecimal() for word in given):  # not "max", not -1
            count = min(count, max(1, math.ceil(int(given[0]) / int(given[1]))))
    return count


def free_memory(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that we may still take; what the system keeps of files that were read counts as free."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in control_groups("memory", proc, cgroups):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, taken = words(folder / limit), words(folder / used)
            if most and taken and most[0].isdecimal():
                files = counter(folder / "memory.stat", cached) or 0
                free = min(free, max(int(most[0]) - int(taken[0]) + files, 0))
    return free


def words(path: Path) -> list[str]:
    """Of a small file of the system; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def counter(path: Path, key: str) -> int | None:
    """The number behind ``key`` in a file of ``key number`` lines; None when there is none."""
    found = words(path)
    return next((int(n) for name, n in zip(found[::2], found[1::2], strict=False) if name == key), None)
