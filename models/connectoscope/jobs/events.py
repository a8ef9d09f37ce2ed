"""``events.jsonl``: what a job says while it runs, one versioned JSON object a line, only ever appended.

Every line holds ``v`` (version), ``time`` (seconds since 1970), ``type`` and what belongs to that type:

* ``submitted`` (written by a window before it starts the job)
* ``started`` pid, resumed, tile_scale, background
* ``progress`` done, total, phase, fraction (0..1 over all phases), seconds_left (null: not known yet)
* ``log``, ``warning`` message
* ``result`` kind (image, labels, points, table, plan, model, ranking, patches, scores), path (absolute), name, and facts
* ``metric`` name, step, values; ``plot`` name, series, x, y, marked
* ``restarted`` message, tile_scale (after out-of-memory)
* and at the end one of ``finished`` (summary), ``error``, ``cancelled``, ``paused`` (message, exit_code)
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENT_VERSION = 1
FINAL_EVENTS = frozenset({"finished", "error", "cancelled", "paused"})
OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC})

Event = dict[str, Any]
Listener = Callable[[Event], None]


def to_json(value: Any) -> Any:
    """``value`` as plain JSON: arrays as lists, paths as text, not-a-numbers and infinities as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, without importing them
        return to_json(value.tolist())
    return str(value)


class EventWriter:
    """Appends events to a file; several processes and threads may write to the same one.

    A full disk is passed over in silence: the run's own writing meets it too, and ends in an orderly way.
    """

    def __init__(self, path: Path, listener: Listener | None = None) -> None:
        self._path = path
        self._listener = listener
        self._lock = threading.Lock()
        self._torn = _ends_torn(path)

    def write(self, type: str, **facts: Any) -> Event:
        event: Event = {"v": EVENT_VERSION, "time": round(time.time(), 3), "type": type, **to_json(facts)}
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._torn:
                line = b"\n" + line
            try:
                handle = os.open(
                    self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666
                )
                try:
                    self._torn = os.write(handle, line) < len(line)
                finally:
                    os.close(handle)
            except OSError as error:
                if error.errno not in OUT_OF_SPACE:
                    raise
        if self._listener is not None:
            self._listener(event)
        return event


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The whole lines after byte ``offset``, and the offset to go on from.

    A line that is still being written stays for the next call; a torn or foreign one is dropped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return _parse(data[:end]), offset + end


def last_event(path: Path, wanted: Callable[[Event], bool]) -> Event | None:
    """The last event that is ``wanted``; reads backwards, since a long training writes megabytes."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    window = 64 * 1024
    while True:
        start = max(0, size - window)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size - start)
        if start > 0:
            data = data[data.find(b"\n") + 1 :]
        data = data[: data.rfind(b"\n") + 1]
        for event in reversed(_parse(data)):
            if wanted(event):
                return event
        if start == 0:
            return None
        window *= 4


def _parse(data: bytes) -> list[Event]:
    events = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("type"), str):
            events.append(event)
    return events


def _ends_torn(path: Path) -> bool:
    """Whether a writer was killed in the middle of the last line."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except FileNotFoundError:
        return False
