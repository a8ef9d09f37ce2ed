"""The result on disk: made in one step, resumed only when it is the same run's, never somebody else's.

An image is built in the job's scratch folder and renamed into place, so what stands at the destination is always
whole and carries our mark: the key ``connectoscope`` in its attributes, with the signature of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorstore as ts

from connectoscope.blockwise.plan import Signature, first_difference
from connectoscope.errors import UserError
from connectoscope.paths import part_of
from connectoscope.volumes.marks import marks_file, read_marks
from connectoscope.volumes.ome_zarr_write import (
    ImageSpec,
    create_image,
    open_image_for_writing,
)
from connectoscope.volumes.stores import is_url


def check_zarr_name(path: Path) -> None:
    """Raises UserError unless ``path`` is named as an OME-Zarr."""
    if path.suffix.lower() != ".zarr":
        stem = path.name.split(".")[0] or "NAME"
        raise UserError(f"{path.name or path}: the result is an OME-Zarr; name it {stem}.ome.zarr")


def check_apart(source: str, path: Path, what: str = "source") -> None:
    """Raises UserError when ``path`` is what is read, holds it or lies in it: making it would destroy that."""
    if not source or is_url(source):
        return
    one, other = Path(source.partition("::")[0]).resolve(), path.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise UserError(f"{path} is the {what} itself, holds it or lies in it; choose another destination")


def found_at(path: Path) -> dict[str, Any] | None:
    """Our marks of the result at ``path``; None where nothing is.

    Raises:
        UserError: something else is there.
    """
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return None
    elsewhere = f"{path} exists and was not made by connectoscope: choose another destination"
    try:
        ours = read_marks(path)
    except UserError:
        raise UserError(elsewhere) from None
    if "signature" not in ours:
        raise UserError(elsewhere)
    return ours


def check_marks(path: Path) -> None:
    """Raises UserError when the place of the marks of a single file that is to be made is somebody else's."""
    place = marks_file(path)
    if not os.path.lexists(place):
        return
    try:
        ours = "signature" in read_marks(path)
    except UserError:
        ours = False
    if not ours:
        raise UserError(
            f"{place} is in the way and was not made by connectoscope: choose another destination"
        )


def check_same(path: Path, old: Signature, new: Signature) -> None:
    """Raises UserError, naming the first difference, unless ``old`` (of what is at ``path``) equals ``new``."""
    difference = first_difference(old, new)
    if difference is not None:
        raise UserError(
            f"{path} was made by another request: {difference}. "
            "Choose another destination, or use --overwrite to start over"
        )


def check_skipped(path: Path, summary: Mapping[str, Any], skip_corrupt: bool) -> None:
    """Raises UserError when the finished result at ``path`` lacks chunks of its source, and nobody asks for that."""
    if (count := len(summary.get("skipped_chunks", ()))) and not skip_corrupt:
        raise UserError(
            f"{path} was made with --skip-corrupt and lacks {count} damaged chunk{'s' if count > 1 else ''} of its "
            "source. Ask for that again, choose another destination, or use --overwrite to start over"
        )


def check_writable(path: Path) -> None:
    """Raises UserError when nothing can be made at ``path``."""
    parent = path.parent
    if (image := next(filter(_is_image, path.absolute().parents), None)) is not None:
        raise UserError(f"{path} lies in the volume {image}; choose another destination")
    if not parent.is_dir():
        raise UserError(f"the folder {parent} does not exist; make it first or choose another destination")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write in {parent}; change its permissions or choose another destination")


def _is_image(folder: Path) -> bool:
    """Whether it is an OME-Zarr image; a group of several may get another one."""
    for name in ("zarr.json", ".zattrs"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            facts = json.loads((folder / name).read_bytes())
            facts = facts.get("attributes", {}) if name == "zarr.json" else facts
            if "multiscales" in {**facts, **facts.get("ome", {})}:
                return True
    return False


def take_away(path: Path, scratch: Path) -> None:
    """Remove a folder of ours. A link to it stays, to an empty one.

    Raises:
        OSError: it cannot be moved; nothing is removed.
    """
    place = path.resolve()
    # On the disk of what is moved, under a name that nobody has.
    old = (place.parent if path.is_symlink() else scratch) / f".{place.name}.{uuid.uuid4().hex}"
    place.rename(old)
    if path.is_symlink():
        place.mkdir()
    shutil.rmtree(old, ignore_errors=True)


def make_image(
    path: Path,
    spec: ImageSpec,
    scratch: Path,
    create: Callable[[Path, ImageSpec], Any] = create_image,
    reopen: Callable[[Path, ImageSpec], list[ts.TensorStore]] = lambda path, spec: open_image_for_writing(
        path
    ),
) -> list[ts.TensorStore]:
    """The stores of the image at ``path``, made now unless it is there; one a level, axes as in the file.

    Args:
        create, reopen: Make its metadata in an empty place, with the marks; open its stores. Default: OME-Zarr.
    """
    if not os.path.lexists(path) or not any(path.iterdir()):
        new = scratch / "new.zarr"
        shutil.rmtree(new, ignore_errors=True)  # half made when an earlier run was killed
        of_image = path.parent.name == "labels" and _is_image(path.absolute().parent.parent)
        create(new, replace(spec, of_image=spec.is_labels and of_image))
        place = path.resolve()  # of a link, what it leads to
        if place.is_dir():
            place.rmdir()
        shutil.move(new, place)
    delete_locks(path)
    return reopen(path, spec)


def delete_locks(path: Path) -> None:
    """Delete the lock files that TensorStore leaves in ``path`` when it is killed."""
    for lock in path.rglob("*.__lock"):
        lock.unlink(missing_ok=True)


def stage_file(new: Path, part: Path) -> None:
    """Move a whole file, also from another disk, to ``part`` beside its place, so that only renaming it is left.

    Raises:
        OSError: it does not fit; the caller deletes what there is of it.
    """
    shutil.move(new, part)
    with part.open("r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes) -> None:
    """Write a single file whole or not at all; durable on return."""
    part = part_of(path)
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
