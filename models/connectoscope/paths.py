"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def is_bare(name: str) -> bool:
    """Whether it is a name alone, no path: of a model, say."""
    return Path(name).name == name and name not in ("", "..", "~")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; what cannot be asked (too long a name, a lost disk) is none."""
    try:
        return path.exists()
    except OSError:
        return False


def part_of(path: Path) -> Path:
    """Where a file is written before it is renamed into place: beside it, under a name that nobody else gives."""
    return path.with_name(f".{path.name}.part")


def expanded(path: str) -> Path:
    """A path with ``~`` and ``~user`` put in; what begins so but names nobody is a file's name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises where there is no such user
