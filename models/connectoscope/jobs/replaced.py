"""What a run with ``--overwrite`` replaces stays to one side until some blocks of the run are done.

A note in the job's folder names what was moved and where to: however the run ends, whoever comes next puts it back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from connectoscope.errors import UserError


def set_aside(note: Path, places: Sequence[Path]) -> None:
    """Move what is at ``places``, all there, to hidden names beside it. A link to a folder stays, to an empty one.

    Raises:
        UserError: something cannot be moved, so nothing is.
    """
    links = [path for path in places if path.is_symlink() and path.is_dir()]
    moves = []
    for path in places:
        place = path.resolve() if path in links else path
        moves.append((place, place.with_name(f".{place.name}.{uuid.uuid4().hex}")))
    note.write_text(json.dumps([[str(place), str(old)] for place, old in moves]), encoding="utf-8")
    try:
        for place, old in moves:
            place.rename(old)
        for path in links:
            path.resolve().mkdir()
    except OSError as error:
        put_back(note)
        raise UserError(
            f"{places[0]} cannot be replaced ({error.strerror}); remove it or choose another destination"
        ) from None


def put_back(note: Path) -> bool:
    """Undo :func:`set_aside`, in place of what was made since; whether there was anything to undo."""
    _end_dropping(note)
    if not note.exists():
        return False
    for place, old in _moves(note):
        if os.path.lexists(old):
            _remove(place)
            old.rename(place)
    note.unlink()
    return True


def drop(note: Path) -> None:
    """Delete what was set aside, as far as that may be; a kill meanwhile does not bring half of it back."""
    if note.exists():
        note.replace(_dropped(note))
        _end_dropping(note)


def _end_dropping(note: Path) -> None:
    if (dropped := _dropped(note)).exists():
        for _, old in _moves(dropped):
            # Somebody may hold it open, or it is write-protected: that ends no run.
            with contextlib.suppress(OSError):
                _remove(old, ignore_errors=True)
        dropped.unlink()


def _dropped(note: Path) -> Path:
    return note.with_suffix(".dropped")


def _moves(note: Path) -> list[tuple[Path, Path]]:
    try:
        return [(Path(place), Path(old)) for place, old in json.loads(note.read_bytes())]
    except ValueError:  # it was not written to its end, so nothing was moved
        return []


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=ignore_errors)
    else:
        path.unlink(missing_ok=True)
