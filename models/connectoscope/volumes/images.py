"""Reading a folder of 2D images (PNG, TIFF, JPEG) as a stack, a section at a time, in natural order of their names."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.geometry import sizes_text
from connectoscope.volumes.stores import chunked_by, file_stamp, first_line

Array = np.ndarray[Any, Any]
_MAGICS = ((b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"))
_KINDS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG", ".jpeg": "JPEG"}
_NAMED = 8  # so many gaps are named, the rest counted


def images_in(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The images of the commonest kind in ``folder`` in natural order, and doubts; none: an empty list."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in _KINDS and not p.name.startswith(".")]
    if not found:
        return [], ()
    kinds = Counter(_KINDS[p.suffix.lower()] for p in found)
    kind = max(sorted(kinds), key=lambda k: kinds[k])
    taken = sorted((p for p in found if _KINDS[p.suffix.lower()] == kind), key=lambda p: _natural(p.name))
    doubts = [
        f"the folder also holds {n} {k} images; the {kind} images are taken"
        for k, n in kinds.items()
        if k != kind
    ]
    return taken, (*doubts, *_gaps([p.stem for p in taken]))


def _natural(name: str) -> list[tuple[int, str]]:
    """Order of names in which 2 comes before 10."""
    return [(int(p), p) if p.isdecimal() else (0, p.lower()) for p in re.split(r"([0-9]+)", name)]


def _gaps(stems: Sequence[str]) -> tuple[str, ...]:
    """A warning that names the numbers missing in a row of names, with the usual step between them."""
    rows = [re.split(r"([0-9]+)", stem) for stem in stems]
    if len({len(row) for row in rows}) != 1:
        return ()
    varying = [k for k in range(1, len(rows[0]), 2) if len({row[k] for row in rows}) > 1]
    if len(varying) != 1:
        return ()
    numbers = sorted({int(row[varying[0]]) for row in rows})
    if len(numbers) < 2:
        return ()
    step = Counter(b - a for a, b in itertools.pairwise(numbers)).most_common(1)[0][0]
    gaps = [
        (a + step, b - step) for a, b in itertools.pairwise(numbers) if b - a > step and (b - a) % step == 0
    ]
    missing = sum((b - a) // step + 1 for a, b in gaps)
    if not gaps or missing > 10 * len(numbers):
        return ()
    named = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in gaps[:_NAMED])
    more = f" and {len(gaps) - _NAMED} more gaps" if len(gaps) > _NAMED else ""
    return (f"{missing} sections are missing ({named}{more}); the others are stacked without gaps",)


def read_images(paths: Sequence[Path], source: Path, name: str, doubts: tuple[str, ...] = ()) -> FileImage:
    """The stack of sections in ``paths``, each a 2D image of the same shape and type.

    Raises:
        UserError: the first cannot be decoded. Another one that differs is named when it is read.
    """
    try:
        first = _decoded(paths[0])
    except _Several as error:
        said = f"{source} is a folder of volumes, to be opened one by one: {paths[0].name} {error}"
        raise UserError(said) from None
    except Exception as error:  # decoders raise nearly everything on damaged data
        raise UserError(
            f"{paths[0]} is damaged or not an image ({type(error).__name__}: {first_line(error)}); fetch it again"
        ) from error
    shape, dtype = first.shape, first.dtype.newbyteorder("=")

    def read(box: tuple[slice, ...]) -> Array:
        sections = []
        for path in paths[box[0]]:
            try:
                section = _decoded(path)
            except Exception as error:
                raise ValueError(f"{path.name}: {type(error).__name__}: {first_line(error)}") from error
            if section.shape != shape or section.dtype != first.dtype:
                raise ValueError(
                    f"{path.name} is {_said(section)}, the first section {_said(first)}: make them alike"
                )
            sections.append(section[box[1:]])
        return np.stack(sections)

    # A section is decoded whole, so it is the chunk.
    array = chunked_by(read, (len(paths), *shape), dtype, (1, *shape))
    stamps = [f"{p.name} {p.stat().st_size} {file_stamp(p)}" for p in paths]
    return FileImage(
        source=str(source),
        name=name,
        format=f"{_kind(paths[0])} {'images' if len(paths) > 1 else 'image'}",
        axes="zyx" + "s" * (len(shape) - 2),
        levels=(FileLevel(array),),
        warnings=doubts,
        metadata="\n".join(stamps),
        stamp=hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16],
    )


def _said(image: Array) -> str:
    return f"{sizes_text(image.shape)} {image.dtype}"


def _kind(path: Path) -> str:
    """By the first bytes; of a file that is damaged there, by its name."""
    with path.open("rb") as file:
        head = file.read(4)
    return next(
        (k for magic, k in _MAGICS if head.startswith(magic)), _KINDS.get(path.suffix.lower(), "TIFF")
    )


class _Several(ValueError):
    """A file that holds more than one image."""


def _decoded(path: Path) -> Array:
    """The pixels of one image: (y, x), or (y, x, samples) of colour."""
    kind = _kind(path)
    if kind == "TIFF":
        with tifffile.TiffFile(path) as tif:
            if len(tif.pages) != 1:
                raise _Several(f"holds {len(tif.pages)} images")
            page = tif.pages.first
            image = np.asarray(page.asarray())
            if page.axes == "SYX":  # samples in separate planes
                image = np.moveaxis(image, 0, -1)
    else:
        decode = imagecodecs.png_decode if kind == "PNG" else imagecodecs.jpeg_decode
        image = np.asarray(decode(path.read_bytes()))
    if image.ndim not in (2, 3) or math.prod(image.shape) == 0:
        raise ValueError(f"it is {_said(image)}, no 2D image")
    return image
