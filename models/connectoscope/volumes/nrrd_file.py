"""Reading NRRD (.nrrd, or .nhdr with its data file): raw is memory-mapped, gzip and bzip2 are unpacked when read."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from connectoscope.errors import UserError
from connectoscope.volumes.directions import axes_from_directions
from connectoscope.volumes.framing import FileImage, FileLevel, common_unit
from connectoscope.volumes.geometry import Float3, canonical_unit
from connectoscope.volumes.raw import raw_voxels
from connectoscope.volumes.stores import file_stamp, first_line

_MOST_HEADER = 2**20
_ENCODINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_TYPES = {
    "i1": "signed char,int8,int8_t", "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t", "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float", "f8": "double",
}  # fmt: skip
_DTYPES = {name: code for code, names in _TYPES.items() for name in names.split(",")}

Json = dict[str, Any]
Space = tuple[str, Float3 | None, Float3 | None, str | None, tuple[str, ...]]


def read_nrrd(path: Path, name: str) -> FileImage:
    """The volume of an NRRD file.

    Raises:
        UserError: the file is damaged or incomplete, or encoded as text.
    """
    with path.open("rb") as file:
        start = file.read(_MOST_HEADER)
    ends = [k + len(blank) for blank in (b"\n\n", b"\n\r\n") if (k := start.find(blank)) >= 0]
    end = min(ends, default=len(start))
    try:
        header = nrrd.read_header(io.BytesIO(start[:end]))
        return _image(path, name, header, end)
    except UserError:
        raise
    except Exception as error:  # pynrrd raises nearly everything on damaged headers
        raise UserError(
            f"{path} is not a readable NRRD (damaged?): {type(error).__name__}: {first_line(error)}; "
            "fetch it again from its source"
        ) from error


def _image(path: Path, name: str, header: Json, end: int) -> FileImage:
    sizes = [int(n) for n in header["sizes"]]
    if len(sizes) != int(header["dimension"]) or min(sizes) < 1:
        raise UserError(f"{path} states sizes {sizes}, which are impossible (damaged?); fetch it again")
    encoding = str(header["encoding"]).lower()
    if encoding not in _ENCODINGS:
        raise UserError(
            f"{path} is encoded as '{encoding}', which cannot be opened: save it as raw or gzip NRRD"
        )
    if header["type"] not in _DTYPES:
        raise UserError(f"{path} holds '{header['type']}' values: only numbers can be opened")
    dtype = np.dtype(_DTYPES[header["type"]]).newbyteorder(">" if header.get("endian") == "big" else "<")
    data, offset = _data(path, header, end)
    packed = _ENCODINGS[encoding]
    if offset and packed:
        raise UserError(f"{path} skips bytes of compressed data, which cannot be opened: save it as raw NRRD")
    axes, scale, shift, unit, doubts = _space(header, len(sizes))
    if offset < 0:
        offset = data.stat().st_size - math.prod(sizes) * dtype.itemsize
    begin = end if data == path else 0
    array = raw_voxels(data, sizes[::-1], dtype, offset, packed=packed, begin=begin)
    return FileImage(
        source=str(path),
        name=name,
        format="NRRD",
        axes=axes[::-1],
        levels=(FileLevel(array, scale, shift),),
        unit=unit,
        warnings=doubts,
        metadata=str({k: str(v) for k, v in header.items()}),
        stamp=file_stamp(data),
    )


def _data(path: Path, header: Json, end: int) -> tuple[Path, int]:
    """The file of the voxels, and where they begin; -1: counted from its end."""
    other = str(header.get("data file", header.get("datafile", "")))
    if int(header.get("line skip") or header.get("lineskip") or 0):
        raise UserError(f"{path} skips lines of its data file, which cannot be opened: save it as one NRRD")
    skip = int(header.get("byte skip") or header.get("byteskip") or 0)
    if not other:
        return path, 0 if str(header["encoding"]).lower() != "raw" else (-1 if skip < 0 else end + skip)
    if "%" in other or other.startswith("LIST"):
        raise UserError(f"{path} names several data files, which cannot be opened: save it as one NRRD")
    data = path.parent / other
    if not data.is_file():
        raise UserError(f"{path}: its data file {data} does not exist; put it beside the header")
    return data, skip


def _space(header: Json, count: int) -> Space:
    """Axes fastest first, voxel size, translation, unit and doubts."""
    directions = header.get("space directions")
    spacings = [float(v) for v in header.get("spacings", ())]
    kinds = [str(k).lower() for k in header.get("kinds", ["domain"] * count)]
    rows = None if directions is None else [np.ravel(row).astype(float) for row in directions]
    spatial = [
        k in ("domain", "space", "???", "none") and not (rows and np.isnan(rows[i]).any())
        for i, k in enumerate(kinds)
    ]
    if sum(spatial) not in (2, 3) or count > 5:
        raise UserError(f"an NRRD of {count} axes with kinds {kinds} cannot be opened: three must be space")
    others = iter("c")
    scale: Float3 | None = None
    shift: Float3 | None = None
    doubts: tuple[str, ...] = ()
    letters = "xyz"
    units = [str(u) for u in header.get("space units", ())]
    if rows and sum(spatial) == 3 and all(len(rows[i]) == 3 for i in range(count) if spatial[i]):
        origin = [float(v) for v in header.get("space origin", (0.0, 0.0, 0.0))]
        letters, scale, shift, doubts = axes_from_directions(
            [row.tolist() for row, here in zip(rows, spatial, strict=True) if here], origin
        )
    elif len(spacings) == count:
        x, y, *z = (v for v, here in zip(spacings, spatial, strict=True) if here)
        scale = (z[0] if z else y, y, x)
        units = [str(u) for u, here in zip(header.get("units", ()), spatial, strict=False) if here]
    names = [canonical_unit(u) for u in units[:3]]
    if len(names) == 2:
        names.append(names[1])
    unit = None
    if scale and len(names) == 3:
        world = names[::-1]  # z, y, x
        shift = common_unit(shift, world)[0] if shift else None
        scale, unit = common_unit(scale, world)
    axes, space = "", iter(letters)
    for kind, here in zip(kinds, spatial, strict=True):
        axes += next(space) if here else ("t" if kind == "time" else next(others))
    return axes, scale, shift, unit, doubts
