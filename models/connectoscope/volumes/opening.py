"""Opening: one function for every kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, frame
from connectoscope.volumes.samples import PREFIX, sample_path
from connectoscope.volumes.stores import REMOTE_SCHEMES, Location, is_url
from connectoscope.volumes.volume import Volume

_READABLE = "OME-Zarr, OME-TIFF, TIFF, HDF5 and NumPy (.npy)"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_ENDINGS = (".ome", ".zarr", ".tif", ".tiff", ".btf", ".h5", ".hdf5", ".hdf", ".npy", ".n5")


def open_volume(
    source: str | Path | Any,
    *,
    channel: str | int | None = None,
    time: int | None = None,
    voxel_size: str | None = None,
) -> Volume:
    """Open a volume lazily: nothing but metadata is read.

    Args:
        source: A file, folder or URL (``file.h5::/raw`` names what lies inside), ``sample:NAME``, or an array in
            memory: numpy, zarr or dask with axes (z, y, x) or (y, x).
        channel: Name or number; None: the first, said in the volume's warnings.
        time: Number of the time point; None: the first, said in the volume's warnings.
        voxel_size: Lengths z,y,x with a unit ("40,4,4nm") in place of what the file states.

    Raises:
        UserError: for anything that a user can cause; one line that says what to do.
    """
    if isinstance(source, str | Path):
        image = _read(str(source))
    else:
        from connectoscope.volumes.memory import read_array

        image = read_array(source)
    return frame(image, channel=channel, time=time, voxel_size=voxel_size)


def _read(source: str) -> FileImage:
    if not source.strip():
        raise UserError("no volume is named: give a file, a folder, a URL or sample:NAME")
    outer, _, inner = source.partition("::")
    if outer.startswith(PREFIX):
        outer = str(sample_path(outer))
    if is_url(outer):
        from connectoscope.volumes.ome_zarr import read_ome_zarr

        location = Location.of(outer).child(inner)
        return read_ome_zarr(location, short_name(location.text))

    path = Path(outer).expanduser().absolute()
    if "://" in outer and not path.exists():
        raise UserError(f"{outer} cannot be opened; addresses begin with {', '.join(REMOTE_SCHEMES)}")
    if not path.exists():
        raise UserError(f"{path} does not exist; check the name")
    try:
        return _read_local(path, inner)
    except PermissionError as error:
        raise UserError(f"{path} may not be read; change its permissions ({error.strerror})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_local(path: Path, inner: str) -> FileImage:
    if path.name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"):
        path = path.parent
    if path.is_dir():
        from connectoscope.volumes.ome_zarr import read_ome_zarr

        location = Location(str(path)).child(inner)
        return read_ome_zarr(location, short_name(location.text))
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] in _TIFF_MAGICS:
        from connectoscope.volumes.tiff import read_tiff

        return read_tiff(path, inner, short_name(path.name))
    if magic == _HDF5_MAGIC:
        from connectoscope.volumes.hdf5 import read_hdf5

        return read_hdf5(path, inner, short_name(path.name))
    if magic[:6] == b"\x93NUMPY":
        return _read_npy(path)
    if not magic:
        raise UserError(f"{path} is an empty file: fetch it again from its source")
    if path.suffix.lower() in _ENDINGS:
        raise UserError(
            f"{path} is not what its name says (damaged or incomplete?): fetch it again from its source"
        )
    raise UserError(f"{path} is of a kind that cannot be opened; readable are {_READABLE}")


def _read_npy(path: Path) -> FileImage:
    from connectoscope.volumes.memory import read_array
    from connectoscope.volumes.stores import file_stamp

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is no readable NumPy array (damaged?): {error}") from error
    image = read_array(array)
    facts = {"source": str(path), "name": short_name(path.name), "format": "NumPy", "stamp": file_stamp(path)}
    return FileImage(**{**vars(image), **facts})


def short_name(path: str) -> str:
    """The last part of a path or URL without the endings of image formats."""
    name = path.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]
    while True:
        stem = name
        for ending in _ENDINGS:
            if stem.lower().endswith(ending) and len(stem) > len(ending):
                stem = stem[: -len(ending)]
        if stem == name:
            return name
        name = stem
