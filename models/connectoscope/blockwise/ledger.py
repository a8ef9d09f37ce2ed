"""The ledger: one line for each finished block, appended only after its data is durable.

Lines are JSON: ``{"id": "probabilities/0_1_2", "crc32": 123, "revision": 0, ...}`` with what else a
block has to tell (``constant``, ``not_finite``). A line torn by a kill is the last one and is dropped
when the file is opened. Only the coordinator appends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Ledger:
    """Finished work of one run, by id. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._entries: dict[str, dict[str, Any]] = {}
        data = path.read_bytes() if path.exists() else b""
        kept = 0
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                self._entries[entry["id"]] = entry
            except (ValueError, TypeError, KeyError):
                break  # torn inside; what follows cannot be trusted
            kept += len(line)
        if kept < len(data):
            os.truncate(path, kept)
        self._file = path.open("ab", buffering=0)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def entries(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Entries whose id starts with ``prefix``."""
        return (entry for id, entry in self._entries.items() if id.startswith(prefix))

    def append(self, id: str, crc32: int, **facts: Any) -> None:
        """Record finished work; returns when the line is on the disk."""
        entry = {"id": id, "crc32": crc32, **facts}
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        os.fsync(self._file.fileno())
        self._entries[id] = entry

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
