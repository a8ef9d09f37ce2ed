"""The ledger: one line for each finished block, appended only after its data is durable.

Lines are JSON: ``{"id": "probabilities/0_1_2", "crc32": 123, "revision": 0, ...}`` with what else a
block has to tell (``constant``, ``not_finite``). Each line stands alone: one that was torn by a kill is
dropped when the file is opened, and the others count. Only the coordinator appends.
"""

from __future__ import annotations

import contextlib
import errno
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
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # torn: that work is done again
                entry = json.loads(line)
                self._entries[entry["id"]] = entry
        if whole < len(data):
            os.truncate(path, whole)
        self._file = path.open("ab", buffering=0)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def entries(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Entries whose id starts with ``prefix``."""
        return (entry for id, entry in self._entries.items() if id.startswith(prefix))

    def append(self, id: str, crc32: int, **facts: Any) -> None:
        """Record finished work; returns when the line is on the disk.

        Raises:
            OSError: it is not, as on a full disk; nothing of it is left in the file.
        """
        entry = {"id": id, "crc32": crc32, **facts}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        end = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) < len(line):  # a disk that becomes full takes a part, without an error
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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
