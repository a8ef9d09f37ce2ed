"""What connectoscope says about a volume that it made: finished or not, from which request.

An OME-Zarr holds it in its attributes; other folders in a file ``connectoscope.json`` inside, single files in one
beside them, ``NAME.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from connectoscope.errors import Unwritable, UserError
from connectoscope.volumes.ome_zarr_write import KEY, read_attributes, set_attributes, write_json
from connectoscope.volumes.stores import first_line

Json = dict[str, Any]


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


def told_of_gaps(source: str) -> list[str]:
    """A line for people where the volume at ``source`` was made from one with damaged chunks."""
    try:
        file = source.partition("::")[0]
        count = len(read_marks(file)["summary"]["skipped_chunks"])
    except (UserError, OSError, KeyError, TypeError):
        return []
    chunks = "1 chunk of its source is" if count == 1 else f"{count} chunks of its source are"
    return [f"{Path(file).name} was made with --skip-corrupt: {chunks} missing in it"]


def marks_file(path: Path) -> Path:
    """Where the marks of a volume that is no zarr are."""
    return path / "connectoscope.json" if path.is_dir() else path.with_name(path.name + ".json")


def _is_zarr(path: Path) -> bool:
    return any((path / name).exists() for name in ("zarr.json", ".zattrs"))
