"""Reading MRC (.mrc, .map, .rec, .st, .ali): memory-mapped; lengths in Ångström."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from mrcfile.utils import data_dtype_from_header

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.geometry import Float3
from connectoscope.volumes.raw import raw_voxels
from connectoscope.volumes.stores import file_stamp, first_line

ENDINGS = (".mrc", ".map", ".rec", ".st", ".ali", ".mrcs")
_IMOD = 1146047817  # IMOD marks its files with it; only then do the flags mean anything
_SIGNED = 1


def is_mrc(path: Path, head: bytes) -> bool:
    """Whether a file begins like an MRC; before 2000 they had no mark, so names count as well."""
    return head[208:211] == b"MAP" or (len(head) >= 1024 and path.suffix.lower() in ENDINGS)


def read_mrc(path: Path, name: str) -> FileImage:
    """The volume of an MRC file.

    Raises:
        UserError: the file is damaged or incomplete.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small faults of headers are common and harmless
            with mrcfile.open(path, header_only=True, permissive=True) as file:
                header = file.header.copy()
        dtype = _dtype(header)
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path} is not a readable MRC (damaged?): {first_line(error)}; fetch it again from its source"
        ) from error
    shape = [int(header[f"n{axis}"]) for axis in "zyx"]
    per_volume = int(header["mz"])
    axes = "".join(
        "xyz"[k - 1] if k in (1, 2, 3) else "?"
        for k in (int(header[f"map{axis}"]) for axis in "src")  # sections, rows, columns
    )
    if sorted(axes) != ["x", "y", "z"]:
        axes = "zyx"  # zeros in old files
    if int(header["ispg"]) >= 401 and 0 < per_volume < shape[0] and shape[0] % per_volume == 0:
        shape, axes = [shape[0] // per_volume, per_volume, *shape[1:]], "t" + axes
    if min(shape) < 1:
        raise UserError(f"{path} states shape {shape}, which is impossible (damaged?); fetch it again")
    return FileImage(
        source=str(path),
        name=name,
        format="MRC",
        axes=axes,
        levels=(
            FileLevel(
                raw_voxels(path, shape, dtype, 1024 + int(header["nsymbt"])), _scale(header), _origin(header)
            ),
        ),
        unit="angstrom",
        metadata=str(header.tolist()),
        stamp=file_stamp(path),
    )


def _dtype(header: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(data_dtype_from_header(header))
    integer = header["nx"].dtype  # its byte order is that of the file
    stamp, flags = np.frombuffer(header.tobytes(), integer, count=2, offset=152)
    if dtype == np.int8 and stamp == _IMOD and not flags & _SIGNED:
        return np.dtype("u1")
    return dtype


def _scale(header: Any) -> Float3 | None:
    lengths = [float(header["cella"][a]) for a in "zyx"]
    counts = [int(header[f"m{a}"]) for a in "zyx"]
    if min(counts) < 1 or not min(lengths) > 0:
        return None
    z, y, x = (length / count for length, count in zip(lengths, counts, strict=True))
    return (z, y, x)


def _origin(header: Any) -> Float3:
    z, y, x = (float(header["origin"][a]) for a in "zyx")
    return (z, y, x)
