"""Voxels that lie in one piece in a file: plain ones are memory-mapped, compressed ones unpacked when first read."""

from __future__ import annotations

import bz2
import gzip
import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorstore as ts

from connectoscope.errors import UserError
from connectoscope.volumes.memory import stored
from connectoscope.volumes.stores import chunked_by

Array = np.ndarray[Any, Any]
_UNPACKERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "gzip": lambda file: gzip.GzipFile(fileobj=file),  # type: ignore[dict-item,return-value]
    "bzip2": lambda file: bz2.BZ2File(file),
}
_MOST_SHRUNK = 1032  # deflate cannot make its input smaller than by this
_PIECE = 2**22


def raw_voxels(
    path: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    offset: int,
    *,
    packed: str = "",
    begin: int = 0,
    change: Callable[[Array], Array] | None = None,
    changed: np.dtype[Any] | None = None,
) -> ts.TensorStore:
    """The lazy array of ``shape`` (slowest axis first) that begins ``offset`` bytes into the (unpacked) file.

    Args:
        packed: "gzip" or "bzip2" where the file is compressed from the byte ``begin`` on. It is unpacked once, to a
            temporary file without a name, so that memory stays bounded.
        change: Applied to what is read; its results have the dtype ``changed``.

    Raises:
        UserError: the file is too short for it, or the shape or dtype is impossible.
    """
    if any(n < 0 for n in shape) or offset < 0 or dtype.kind not in "buif" or dtype.itemsize > 8:
        raise UserError(
            f"{path} states shape {tuple(shape)} and type {dtype}, which cannot be opened (damaged?)"
        )
    needed = offset + math.prod(shape) * dtype.itemsize
    size = path.stat().st_size * (_MOST_SHRUNK if packed == "gzip" else 1)
    if needed > size and packed != "bzip2":
        raise UserError(f"{path} is incomplete: the file ends before its voxels do; fetch it again")
    if 0 in shape:
        return ts.array(np.empty(shape, changed or dtype.newbyteorder("=")))
    if not packed and change is None:
        return stored(np.memmap(path, dtype, "r", offset, tuple(shape)))
    voxels = _Voxels(path, tuple(shape), dtype, offset, packed, begin)
    native = dtype.newbyteorder("=")

    def read(box: tuple[slice, ...]) -> Array:
        part = voxels.array()[box].astype(native)
        return part if change is None else change(part)

    chunks = (1,) * max(len(shape) - 3, 0) + (64, 256, 256)[-min(len(shape), 3) :]
    return chunked_by(read, shape, changed or native, chunks)


class _Voxels:
    """A memory map that is made when it is first asked for."""

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        offset: int,
        packed: str,
        begin: int,
    ) -> None:
        self._path, self._shape, self._dtype = path, shape, dtype
        self._offset, self._packed, self._begin = offset, packed, begin
        self._lock = threading.Lock()
        self._array: Array | None = None

    def array(self) -> Array:
        with self._lock:
            if self._array is None:
                self._array = self._unpacked() if self._packed else self._map(self._path, self._offset)
            return self._array

    def _map(self, file: Any, offset: int) -> Array:
        return np.memmap(file, self._dtype, "r", offset, self._shape)

    def _unpacked(self) -> Array:
        left = math.prod(self._shape) * self._dtype.itemsize
        with self._path.open("rb") as file, tempfile.TemporaryFile() as target:
            file.seek(self._begin)
            source = _UNPACKERS[self._packed](file)
            source.seek(self._offset)
            while left:
                piece = source.read(min(left, _PIECE))
                if not piece:
                    raise ValueError("the file ends before its voxels do")
                target.write(piece)
                left -= len(piece)
            target.flush()
            return self._map(target, 0)
