"""Reading Imaris files (.ims): HDF5 with a pyramid for each channel and time point (Imaris 5.5 file format, Oxford Instruments).

Data lie in ``DataSet/ResolutionLevel R/TimePoint T/Channel C/Data`` (z, y, x), filled up to whole chunks; what of them is image
stands beside them, the extent in the world in ``DataSetInfo/Image``.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import h5py
import tensorstore as ts

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, FileLevel, coarser_by
from connectoscope.volumes.geometry import Float3, Index3, canonical_unit
from connectoscope.volumes.hdf5 import lazy_dataset, open_hdf5, text_of
from connectoscope.volumes.stores import file_stamp, first_line


def is_imaris(path: Path, inner: str) -> bool:
    """Whether an HDF5 file is laid out by Imaris, and not just one dataset of it is asked for."""
    if inner.strip("/"):
        return False
    try:
        with open_hdf5(path) as file:
            return "DataSet/ResolutionLevel 0" in file and "DataSetInfo/Image" in file
    except (OSError, RuntimeError, ValueError, KeyError):
        return False


def read_imaris(path: Path, name: str) -> FileImage:
    """All channels and time points, with the pyramid that the file holds.

    Raises:
        UserError: the file is damaged, or its channels or time points differ in shape.
    """
    try:
        return _image(path, name)
    except UserError:
        raise
    except Exception as error:  # h5py raises nearly everything on damaged files
        raise UserError(
            f"{path} is a damaged or incomplete Imaris file ({type(error).__name__}: {first_line(error)}); "
            "fetch it again from its source"
        ) from error


def _image(path: Path, name: str) -> FileImage:
    file = open_hdf5(path)
    image, data = file["DataSetInfo/Image"], file["DataSet"]
    levels = [_stacks(data[key], path) for key in _numbered(data, "ResolutionLevel")]
    finest = _shape(levels[0])
    scale, corner = _extent(image, finest)
    unit = canonical_unit(text_of(image.attrs.get("Unit", "")))
    made = []
    for level in levels:
        if scale is None or corner is None:
            made.append(FileLevel(level))
            continue
        steps = [coarser_by(n, m) for n, m in zip(finest, _shape(level), strict=True)]
        z, y, x = (s * f for s, f in zip(scale, steps, strict=True))
        c, b, a = (low + v / 2 for low, v in zip(corner, (z, y, x), strict=True))
        made.append(FileLevel(level, (z, y, x), (c, b, a)))
    names = (f"DataSetInfo/Channel {c}" for c in range(levels[0].shape[1]))
    return FileImage(
        source=str(path),
        name=name,
        format="Imaris",
        axes="tczyx",
        levels=tuple(made),
        unit=unit if scale else None,
        channels=tuple(text_of(file[key].attrs.get("Name", "")) if key in file else "" for key in names),
        metadata=f"{[level.shape for level in levels]} {sorted((k, text_of(v)) for k, v in image.attrs.items())}",
        stamp=file_stamp(path),
    )


def _stacks(level: h5py.Group, path: Path) -> ts.TensorStore:
    """A resolution level, (t, c, z, y, x)."""
    times = [level[key] for key in _numbered(level, "TimePoint")]
    channels = _numbered(times[0], "Channel")
    arrays = [[_data(time[channel]) for channel in channels] for time in times]
    if len({array.shape for row in arrays for array in row}) > 1:
        one = f"{times[0].name}/{channels[0]}/Data"
        raise UserError(
            f"{path}: its channels or time points differ in shape; name one, as {path.name}::{one}"
        )
    return ts.stack([ts.stack(row) for row in arrays])


def _numbered(group: h5py.Group, word: str) -> list[str]:
    """Keys "WORD 0", "WORD 1", … in the order of their numbers."""
    found = [(int(m[1]), key) for key in group if (m := re.fullmatch(rf"{word} (\d+)", key))]
    return [key for _, key in sorted(found)]


def _data(channel: h5py.Group) -> ts.TensorStore:
    whole = lazy_dataset(channel["Data"])
    z, y, x = (
        min(int(text_of(channel.attrs.get(f"ImageSize{axis}", n))), n)
        for axis, n in zip("ZYX", whole.shape, strict=True)
    )
    return whole[:z, :y, :x]


def _shape(level: ts.TensorStore) -> Index3:
    z, y, x = level.shape[-3:]
    return (z, y, x)


def _extent(image: Any, shape: Index3) -> tuple[Float3 | None, Float3 | None]:
    """Voxel size and lower corner (z, y, x); None where the file does not state them."""
    try:
        low, high = (
            [float(text_of(image.attrs[f"Ext{end}{i}"])) for i in (2, 1, 0)] for end in ("Min", "Max")
        )
    except (KeyError, ValueError):
        return None, None
    size = [(b - a) / n for a, b, n in zip(low, high, shape, strict=True)]
    if not all(math.isfinite(v) and v > 0 for v in size):
        return None, None
    return (size[0], size[1], size[2]), (low[0], low[1], low[2])
