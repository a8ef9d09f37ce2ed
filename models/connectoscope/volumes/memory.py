"""Arrays in memory as volumes: numpy, zarr and dask; axes (z, y, x) or (y, x)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.ome_zarr import guessed_axes, read_ome_zarr
from connectoscope.volumes.stores import Location, chunked_by

Array = np.ndarray[Any, Any]


def read_array(array: Any) -> FileImage:
    """The image of an array object.

    Raises:
        UserError: it is no array, or one of Python objects.
    """
    origin = type(array).__module__.partition(".")[0]
    if isinstance(array, np.ndarray):
        return _image(stored(array), "NumPy array")
    if origin == "zarr":
        return _zarr(array)
    if origin == "dask":
        return _dask(array)
    if isinstance(array, ts.TensorStore):
        return _image(array, "TensorStore")
    raise UserError(
        f"a {type(array).__name__} is not a volume: give a file, a folder, a URL, or a numpy, zarr or dask array"
    )


def _image(store: ts.TensorStore, kind: str, name: str = "array") -> FileImage:
    axes, _ = guessed_axes(len(store.shape), name)
    # (z, y, x) is the documented order of arrays in memory, so there is nothing to warn about.
    return FileImage(source="", name=name, format=kind, axes=axes, levels=(FileLevel(store),))


def stored(array: Array) -> ts.TensorStore:
    """``array`` as a TensorStore, without a copy where its bytes are in native order and aligned."""
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise UserError(
            f"{array.dtype} values cannot be opened: convert the array to an integer or float type"
        )
    if array.dtype.isnative and array.flags.aligned:
        return ts.array(array.view(np.ndarray), copy=False, write=False)
    native = array.dtype.newbyteorder("=")
    chunks = (1,) * max(array.ndim - 3, 0) + (64, 256, 256)[-min(array.ndim, 3) :]
    return chunked_by(lambda box: array[box].astype(native), array.shape, native, chunks)


def _zarr(array: Any) -> FileImage:
    if not hasattr(array, "shape"):
        raise UserError("a zarr group is not a volume: give one of its arrays, or the path of an OME-Zarr")
    root = getattr(array.store, "root", None)  # of a local store
    if isinstance(root, Path):
        return read_ome_zarr(Location.of(str(root)).child(array.path), array.basename or root.name)
    # Other stores (memory, fsspec) are read through zarr itself, which allows several threads.
    store = chunked_by(lambda box: np.asarray(array[box]), array.shape, np.dtype(array.dtype), array.chunks)
    return _image(store, "Zarr array", array.basename or "array")


def _dask(array: Any) -> FileImage:
    if not hasattr(array, "chunksize"):
        raise UserError(f"a dask {type(array).__name__} is not a volume: give a dask array")
    dtype = np.dtype(array.dtype).newbyteorder("=")

    def read(box: tuple[slice, ...]) -> Array:
        # One block is asked for at a time, from TensorStore's threads: a pool of dask's own would only compete.
        return np.asarray(array[box].compute(scheduler="synchronous"), dtype=dtype)

    return _image(chunked_by(read, array.shape, dtype, array.chunksize), "Dask array")
