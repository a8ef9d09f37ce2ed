"""What connectoscope says about a volume that it made: finished or not, from which request.

An OME-Zarr holds it in its attributes; other folders in a file ``connectoscope.json`` inside, single files in one
beside them, ``NAME.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from connectoscope.errors import Unwritable, UserError
from connectoscope.paths import expanded
from connectoscope.volumes.ome_zarr_write import KEY, read_attributes, set_attributes, write_json
from connectoscope.volumes.stores import first_line

Json = dict[str, Any]
UNFINISHED = "the volume is unfinished: the run that makes it has stopped or still goes on"


def read_marks(path: Path | str) -> Json:
    """Our marks of the volume at ``path``; empty where it has none.

    Raises:
        UserError: a zarr without metadata, or damaged marks.
    """
    path = Path(path)
    if _is_zarr(path):
        return read_attributes(path)
    place = marks_file(path)
    try:
        ours = json.loads(place.read_text(encoding="utf-8"))[KEY]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged or may not be read: {first_line(error)}") from error
    return dict(ours) if isinstance(ours, dict) else {}


def set_marks(path: Path, **updates: Any) -> None:
    """Update the marks; all or nothing, also when killed.

    Raises:
        UserError: they cannot be written.
    """
    if _is_zarr(path):
        set_attributes(path, **updates)
        return
    place = marks_file(path)
    try:
        write_json(place, {KEY: {**read_marks(path), **updates}})
    except OSError as error:
        raise Unwritable(f"{place} cannot be written: {first_line(error)}") from error


def told_of(source: str) -> list[str]:
    """Lines for people about a volume of ours, on this machine: unfinished, or with gaps where chunks were damaged."""
    path = expanded(source.partition("::")[0])
    ours = _read(path)
    # The reader of zarr says that itself, of servers, too.
    unfinished = ours.get("finished") is False and not _is_zarr(path)
    return [*_gaps(path, ours), *([UNFINISHED] if unfinished else [])]


def gaps(source: str) -> list[str]:
    """Of :func:`told_of` what is to be told of whatever is made from the volume."""
    path = expanded(source.partition("::")[0])
    return _gaps(path, _read(path))


def _read(path: Path) -> Json:
    """The marks; none where they cannot be read, which who opens the volume tells."""
    try:
        return dict(read_marks(path))
    except (UserError, OSError, ValueError, TypeError, AttributeError):
        return {}


def _gaps(path: Path, ours: Json) -> list[str]:
    try:
        count = len(ours.get("summary", {}).get("skipped_chunks", ()))
        inherited = [str(line) for line in ours.get("gaps", ())]
    except (AttributeError, TypeError):
        return []
    chunks = "1 chunk of its source is" if count == 1 else f"{count} chunks of its source are"
    own = f"{path.name} was made with --skip-corrupt: {chunks} missing in it"
    return [*inherited, *([own] if count else [])]


def marks_file(path: Path) -> Path:
    """Where the marks of a volume that is no zarr are."""
    return path / "connectoscope.json" if path.is_dir() else path.with_name(path.name + ".json")


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zattrs"))
