"""Opening: one function for every kind of source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.volumes.endings import ENDINGS, short_name
from connectoscope.volumes.framing import FileImage, frame
from connectoscope.volumes.marks import told_of
from connectoscope.volumes.samples import PREFIX, sample_path
from connectoscope.volumes.stores import REMOTE_SCHEMES, Location, is_url
from connectoscope.volumes.volume import Volume

_READABLE = (
    "OME-Zarr, N5, Neuroglancer precomputed, OME-TIFF, TIFF, HDF5, BigDataViewer, Imaris, MRC, NRRD, NIfTI, NumPy (.npy) and "
    "folders of PNG, TIFF or JPEG images"
)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_IMAGE_MAGICS = (b"\x89PNG", b"\xff\xd8\xff")
_FOLDERS = {"precomputed": "info", "n5": "attributes.json"}  # the file that tells each kind
_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", *_FOLDERS.values())
_HEAD = 1024


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
        image = read_image(str(source))
    else:
        from connectoscope.volumes.memory import read_array

        image = read_array(source)
    return frame(image, channel=channel, time=time, voxel_size=voxel_size)


def read_image(source: str) -> FileImage:
    """A file, folder or URL with all its channels and times; :func:`frame` makes volumes of it.

    Raises:
        UserError: as :func:`open_volume`.
    """
    image = _read(source)
    outer = source.partition("::")[0]
    for kind in (*_FOLDERS, "zarr"):
        outer = outer.removeprefix(f"{kind}://")
    return replace(image, warnings=(*image.warnings, *told_of(outer)))


def _read(source: str) -> FileImage:
    if not source.strip():
        raise UserError("no volume is named: give a file, a folder, a URL or sample:NAME")
    outer, _, inner = source.partition("::")
    if outer.startswith(PREFIX):
        outer = str(sample_path(outer))
    scheme, _, rest = outer.partition("://")
    kind = scheme if scheme in (*_FOLDERS, "zarr") else None  # as Neuroglancer writes: precomputed://gs://…
    if kind is not None:
        outer = rest
    if is_url(outer):
        return _read_folder(Location.of(outer).child(inner), kind)

    path = expanded(outer).absolute()
    if "://" in outer and not path.exists():
        raise UserError(f"{outer} cannot be opened; addresses begin with {', '.join(REMOTE_SCHEMES)}")
    if not path.exists():
        raise UserError(f"{path} does not exist; check the name")
    try:
        if path.is_dir() or path.name in _METADATA:
            return _read_local_folder(path if path.is_dir() else path.parent, inner, kind)
        return _read_file(path, inner)
    except PermissionError as error:
        raise UserError(f"{path} may not be read; change its permissions ({error.strerror})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_local_folder(path: Path, inner: str, kind: str | None) -> FileImage:
    location = Location(str(path)).child(inner)
    if kind is None and not any((Path(location.text) / name).is_file() for name in _METADATA):
        from connectoscope.volumes.images import images_in, read_images

        images, doubts = images_in(path)
        if images and not inner:
            return read_images(images, path, short_name(location.text), doubts)
    return _read_folder(location, kind)


def _read_folder(location: Location, kind: str | None) -> FileImage:
    """A chunked format, local or remote; which one is asked of what is there, of a server only if it is not named."""
    name = short_name(location.text)
    if kind is None and not (location.remote and ".zarr" in location.text.lower()):
        kind = next((k for k, key in _FOLDERS.items() if location.read_json(key) is not None), None)
    if kind == "precomputed":
        from connectoscope.volumes.precomputed import read_precomputed

        return read_precomputed(location, name)
    if kind == "n5":
        from connectoscope.volumes.n5 import read_n5

        return read_n5(location, name)
    from connectoscope.volumes.ome_zarr import read_ome_zarr

    return read_ome_zarr(location, name)


def _read_file(path: Path, inner: str) -> FileImage:
    from connectoscope.volumes.mrc import is_mrc
    from connectoscope.volumes.nifti import is_nifti

    with path.open("rb") as file:
        head = file.read(_HEAD)
    name = short_name(path.name)
    if head[:4] in _TIFF_MAGICS:
        from connectoscope.volumes.tiff import read_tiff

        return read_tiff(path, inner, name)
    if head[:8] == _HDF5_MAGIC:
        from connectoscope.volumes.bigdataviewer import is_bigdataviewer, read_bigdataviewer
        from connectoscope.volumes.hdf5 import read_hdf5
        from connectoscope.volumes.imaris import is_imaris, read_imaris

        if is_imaris(path, inner):
            return read_imaris(path, name)
        return (read_bigdataviewer if is_bigdataviewer(path, inner) else read_hdf5)(path, inner, name)
    if b"<SpimData" in head:
        from connectoscope.volumes.bigdataviewer import data_file, read_bigdataviewer

        return read_bigdataviewer(data_file(path), inner, name)
    if head[:6] == b"\x93NUMPY":
        return _read_npy(path)
    if head[:4] == b"NRRD":
        from connectoscope.volumes.nrrd_file import read_nrrd

        return read_nrrd(path, name)
    if is_nifti(head):
        from connectoscope.volumes.nifti import read_nifti

        return read_nifti(path, name)
    if head[:4] in _IMAGE_MAGICS or head[:3] in _IMAGE_MAGICS:
        from connectoscope.volumes.images import read_images

        return read_images([path], path, name)
    if is_mrc(path, head):
        from connectoscope.volumes.mrc import read_mrc

        return read_mrc(path, name)
    if not head:
        raise UserError(f"{path} is an empty file: fetch it again from its source")
    if path.name.lower().endswith(ENDINGS):
        raise UserError(
            f"{path} is not what its name says (damaged or incomplete?): fetch it again from its source"
        )
    raise UserError(f"{path} is of a format that cannot be opened; readable are {_READABLE}")


def _read_npy(path: Path) -> FileImage:
    from connectoscope.volumes.memory import read_array
    from connectoscope.volumes.stores import file_stamp, first_line

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # its header is Python, so reading it raises nearly everything
        raise UserError(f"{path} is not a readable NumPy array (damaged?): {first_line(error)}") from error
    image = read_array(array)
    facts = {"source": str(path), "name": short_name(path.name), "format": "NumPy", "stamp": file_stamp(path)}
    return FileImage(**{**vars(image), **facts})
