"""What a benchmark gives: a title, how it was measured, and a table."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """``rows``: first the head, then the figures, as text."""

    title: str
    text: str
    rows: list[list[str]]


def seconds(command: list[str], **options: object) -> float:
    """Wall time of a whole command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    return time.perf_counter() - started


def in_turn(commands: dict[str, list[str]], runs: int, **options: object) -> dict[str, list[float]]:
    """Seconds of each command, run in turn A B A B ..., after one round that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for index in range(runs + 1):
        for name, command in commands.items():
            second = seconds(command, **options)
            if index:
                taken[name].append(second)
    return taken


def spread(values: list[float]) -> str:
    """Median and, in brackets, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
