"""Reading HDF5: one dataset, picked where there is only one, else named ``file.h5::/raw``."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  bitshuffle, Blosc, LZ4, Zstandard: what beamlines and microscopes write
import numpy as np
import tensorstore as ts

from connectoscope.errors import SeveralVolumes, UserError
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.geometry import Float3, canonical_unit
from connectoscope.volumes.ome_zarr import guessed_axes
from connectoscope.volumes.stores import chunked_by, file_stamp, first_line

Array = np.ndarray[Any, Any]


def open_hdf5(path: Path) -> h5py.File:
    """For reading; without a lock where there is none to be had: of the file system, or beside a program that writes."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def read_hdf5(path: Path, inner: str, name: str) -> FileImage:
    """The dataset ``inner`` of an HDF5 file, or its only one of two or more axes.

    Raises:
        UserError: the file is damaged, or it has several datasets and none was named.
    """
    try:
        file = open_hdf5(path)
        dataset = _choose(file, inner, path)
        return _image(path, dataset, name)
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is a damaged or incomplete HDF5 file ({first_line(error)}); fetch it again from its source"
        ) from error


def _choose(file: h5py.File, inner: str, path: Path) -> h5py.Dataset:
    found: dict[str, h5py.Dataset] = {}

    def note(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "buif":
            found["/" + key] = item

    if inner.strip("/"):
        wanted = "/" + inner.strip("/")
        if wanted in file and isinstance(file[wanted], h5py.Dataset):
            return file[wanted]
        file.visititems(note)
        raise UserError(f"{path} has no dataset '{wanted}'; it has {', '.join(sorted(found)) or 'no volume'}")
    file.visititems(note)
    volumes = {key: d for key, d in found.items() if d.ndim >= 3} or found
    if not volumes:
        raise UserError(f"{path} holds no volume: none of its datasets has three axes of numbers")
    if len(volumes) > 1:
        names = sorted(volumes)
        raise SeveralVolumes(
            f"{path} has several datasets; name one, as {path.name}::{names[0]}: {', '.join(names)}",
            (
                (f"{path}::{n}", f"{' × '.join(map(str, volumes[n].shape))}  {volumes[n].dtype}")
                for n in names
            ),
        )
    return next(iter(volumes.values()))


def _image(path: Path, dataset: h5py.Dataset, name: str) -> FileImage:
    label = f"{path}::{dataset.name}"
    axes, warnings = _axes(dataset, label)
    scale, translation, unit = _space(dataset, axes)
    return FileImage(
        source=label,
        name=f"{name} {dataset.name}",
        format="HDF5",
        axes=axes,
        levels=(FileLevel(lazy_dataset(dataset), scale, translation),),
        unit=unit,
        channels=tuple(text_of(c) for c in np.ravel(dataset.attrs.get("channels", ()))),
        warnings=warnings,
        metadata=f"{dataset.shape} {dataset.dtype} {sorted((k, str(v)) for k, v in dataset.attrs.items())}",
        stamp=file_stamp(path),
    )


def lazy_dataset(dataset: h5py.Dataset, means: np.dtype[Any] | None = None) -> ts.TensorStore:
    """Its voxels, all axes. ``means``: the type of the same size that the stored bytes stand for."""
    shape = tuple(int(n) for n in dataset.shape)
    native = dataset.dtype.newbyteorder("=")
    dtype = means or native
    lock = threading.Lock()  # HDF5 itself is not reentrant

    def read(box: tuple[slice, ...]) -> Array:
        with lock:
            return np.asarray(dataset[box], dtype=native).view(dtype)

    plane = (1,) * max(len(shape) - 3, 0) + (64, 256, 256)[-min(len(shape), 3) :]
    return chunked_by(read, shape, dtype, dataset.chunks or plane)


def _axes(dataset: h5py.Dataset, label: str) -> tuple[str, tuple[str, ...]]:
    """Axes from dimension labels or an ``axes`` attribute ("zyx", or vigra's axistags); else z, y, x and said so."""
    labels = [str(d.label).lower()[:1] for d in dataset.dims]
    given = "".join(labels) if all(labels) else text_of(dataset.attrs.get("axes"))
    if not given and "axistags" in dataset.attrs:
        import json

        tags = json.loads(text_of(dataset.attrs["axistags"]))
        given = "".join(str(axis["key"]) for axis in tags["axes"])
    given = given.replace(",", "").replace(" ", "").lower()
    if len(given) == dataset.ndim and set(given) <= set("tczyx") and len(set(given)) == len(given):
        return given, ()
    return guessed_axes(dataset.ndim, label)


def _space(dataset: h5py.Dataset, axes: str) -> tuple[Float3 | None, Float3 | None, str | None]:
    """CREMI's ``resolution`` and ``offset`` (nanometres where no unit is given), or ``element_size_um``; z, y, x."""
    attributes = dataset.attrs
    if "resolution" in attributes:
        stated = attributes.get("units", attributes.get("unit", "nm"))
        each = {text_of(text) for text in np.ravel(stated)}  # one for each axis, or one for all
        unit = canonical_unit((each.pop() if len(each) == 1 else text_of(stated)) or "nm")
        scale = _three(attributes["resolution"], axes, lambda v: v > 0)
        if scale is None or unit is None:
            return None, None, None
        return scale, _three(attributes.get("offset"), axes, lambda v: True), unit
    scale = _three(attributes.get("element_size_um"), "zyx", lambda v: v > 0)  # always in this order
    return scale, None, "micrometer" if scale else None


def _three(value: Any, axes: str, allowed: Callable[[float], bool]) -> Float3 | None:
    """An attribute's numbers, one for each axis of the dataset or each of space, in its order; (z, y, x), or None."""
    try:
        numbers = [float(v) for v in np.ravel(value)]
    except (TypeError, ValueError):
        return None
    space = "".join(axis for axis in axes if axis in "zyx") if "z" in axes else "zyx"
    order = axes if len(numbers) == len(axes) else space
    if len(numbers) != len(order) or not set("zyx") <= set(order):
        return None
    by = dict(zip(order, numbers, strict=True))
    three = (by["z"], by["y"], by["x"])
    return three if all(math.isfinite(v) and allowed(v) for v in three) else None


def text_of(value: Any) -> str:
    """An attribute: text, bytes, or one character at a time."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return "".join(text_of(v) for v in value.ravel())
    return "" if value is None else str(value)
