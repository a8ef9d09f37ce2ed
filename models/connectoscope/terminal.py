"""How a running job looks in a terminal: progress and warnings on stderr, the summary on stdout."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any, TextIO

from connectoscope.jobs.events import Event
from connectoscope.words import duration

PLAIN_SECONDS = 10.0  # between progress lines where they cannot be overwritten
_CLEAR = "\r\x1b[K"


def write_line(text: str, stream: TextIO | None) -> bool:
    """Write a line; that nobody can read it (a closed pipe or terminal, a full disk behind it) ends nothing.

    Returns:
        Whether who wants to read it can: False where a disk has no room for it.
    """
    if stream is None:  # closed before we began
        return True
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        # Python flushes once more at exit and would complain then.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            return True
        if stream is sys.stdout:
            complain(f"what was asked for is done, but cannot be printed ({error.strerror})")
        return False
    return True


def complain(text: str) -> None:
    """The one line of an error."""
    write_line(f"connectoscope: {' '.join(text.splitlines())}", sys.stderr)


class JobReporter:
    """Shows the events of a run on stderr: one refreshed line in a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._refresh = self._stream is not None and self._stream.isatty()
        self._shown = False
        self._last = time.monotonic()
        self._phase: tuple[str, float, int] | None = None  # name, when it began, blocks done then

    def __call__(self, event: Event) -> None:
        kind = event["type"]
        if kind == "progress":
            self._progress(event)
        elif kind == "started" and event.get("resumed"):
            self._line("going on with the unfinished run")
        elif kind == "warning":
            self._line(f"warning: {event['message']}")
        elif kind in ("log", "restarted"):
            self._line(str(event["message"]))

    def close(self) -> None:
        """Take the progress line away."""
        if self._shown:
            self._write(_CLEAR)
            self._shown = False

    def _progress(self, event: Event) -> None:
        now = time.monotonic()
        text = self._describe(event, now)
        if self._refresh:
            columns = _columns(self._stream)
            self._write(_CLEAR + text[: columns - 1])
            self._shown = True
        elif now - self._last >= PLAIN_SECONDS:
            self._last = now
            self._line(text)

    def _describe(self, event: Event, now: float) -> str:
        """``network  42 %  120/287  3.1/s  12.0 MVox/s  1 min 23 s left``."""
        phase, done = event["phase"], event["done"]
        if self._phase is None or self._phase[0] != phase or done < self._phase[2]:
            self._phase = (phase, now, done)
        parts = [f"{phase}  {100 * event['fraction']:3.0f} %", f"{done}/{event['total']}"]
        _, began, first = self._phase
        if done > first and now > began:
            rate = (done - first) / (now - began)
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
        if "megavoxels_per_second" in event:
            parts.append(f"{event['megavoxels_per_second']:.1f} MVox/s")
        if event.get("seconds_left") is not None:
            parts.append(f"{duration(round(event['seconds_left']))} left")
        return "  ".join(parts)

    def _line(self, text: str) -> None:
        self.close()
        write_line(text, self._stream)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


def summary_text(summary: dict[str, Any]) -> str:
    """A summary for people: name and value a line; warnings were told already."""
    shown = {
        name.replace("_", " "): _value_text(value)
        for name, value in summary.items()
        if name not in ("task", "warnings") and value not in (None, [], {})
    }
    width = max((len(name) for name in shown), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown.items())


def _value_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_value_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
