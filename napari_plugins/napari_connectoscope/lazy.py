"""Arrays that napari slices without reading more than it shows, also of a store that is being written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from connectoscope.volumes.corrupt import is_corrupt, read_by_chunks
from connectoscope.volumes.geometry import Box
from connectoscope.volumes.stores import check_there
from connectoscope.words import data_size

_LARGEST = (
    2 << 30
)  # bytes that __array__ reads at once; more is a mistake (3D view of a volume without pyramid)
_LIVE_VOXELS = 1 << 26  # voxels of whole chunks that a live read may decode: about a tenth of a second


class LazyArray:
    """A lazy view of a TensorStore: indexing gives another view, ``np.asarray`` reads it.

    napari indexes a layer first ``[:, y0:y1, x0:x1]`` and then ``[z:z + 1]``, so only the last step may read.

    Args:
        store: Array of any dimension with origin 0.
    """

    def __init__(self, store: ts.TensorStore, _index: tuple[range | int, ...] | None = None) -> None:
        self.store = store
        self._index = tuple(range(int(n)) for n in store.shape) if _index is None else _index
        self.dtype = np.dtype(store.dtype.numpy_dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(i) for i in self._index if isinstance(i, range))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether it is the store as it is: nothing cropped, stepped over or turned."""
        return self._index == tuple(range(int(n)) for n in self.store.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyArray {self.shape} {self.dtype}>"

    def __getitem__(self, key: Any) -> Any:
        """A view for integers, slices and ``...``; anything fancier reads and gives numpy."""
        keys = key if isinstance(key, tuple) else (key,)
        if not all(k is Ellipsis or isinstance(k, slice | int | np.integer) for k in keys):
            return np.asarray(self)[key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys = keys[:at] + (slice(None),) * (self.ndim - len(keys) + 1) + keys[at + 1 :]
        if len(keys) > self.ndim:
            raise IndexError(f"{len(keys)} indices for an array of {self.ndim} dimensions")
        rest = iter(keys)
        index: list[range | int] = []
        for axis in self._index:
            k = next(rest, slice(None)) if isinstance(axis, range) else None
            index.append(axis if k is None else axis[k])  # type: ignore[index]
        return self._view(tuple(index))

    def _view(self, index: tuple[range | int, ...]) -> LazyArray:
        return type(self)(self.store, index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.nbytes > _LARGEST:
            raise ValueError(
                f"{data_size(self.nbytes)} are too much to show or convert at once: take a part or a"
                " coarser level"
            )
        data = self._read() if self.size else np.empty(self.shape, self.dtype)
        return data if dtype is None else data.astype(dtype, copy=False)

    def _read(self) -> np.ndarray[Any, Any]:
        return read_ranges(self.store, self._index)


def read_ranges(store: ts.TensorStore, index: Sequence[range | int]) -> np.ndarray[Any, Any]:
    """Voxels at these indices; ranges run either way."""
    forward = [i[::-1] if isinstance(i, range) and i.step < 0 else i for i in index]
    keys = tuple(slice(i[0], i[-1] + 1, i.step) if isinstance(i, range) else i for i in forward)
    try:
        data = np.asarray(store[keys].read().result())
        check_there(store, data)
    except (ValueError, OSError) as error:
        if store.rank != 3 or not is_corrupt(error):
            raise
        data = _read_around(store, forward)
    turned = [isinstance(i, range) and i.step < 0 for i in index if isinstance(i, range)]
    return data[tuple(slice(None, None, -1 if t else 1) for t in turned)] if any(turned) else data


def _read_around(store: ts.TensorStore, index: Sequence[range | int]) -> np.ndarray[Any, Any]:
    """Voxels (z, y, x) at these indices; 0 in corrupt chunks, so that the sound ones around them are seen."""

    def failed(chunk: Box, error: Exception) -> None:
        if not is_corrupt(error):
            raise error

    ends = [(i[0], i[-1] + 1) if isinstance(i, range) else (i, i + 1) for i in index]
    (z0, z1), (y0, y1), (x0, x1) = ends
    z, y, x = store.chunk_layout.read_chunk.shape
    data = read_by_chunks(store, (z, y, x), Box((z0, y0, x0), (z1, y1, x1)), failed)
    return data[tuple(slice(None, None, i.step) if isinstance(i, range) else 0 for i in index)]


class LivePyramid:
    """Levels of a result that is still growing.

    A coarse chunk is stored when its last child is done, so until the job has finished a coarse level is read
    from the finest level that is quick enough to sample. Set :attr:`live` to False to read the stored levels.

    Args:
        levels: Finest first.
        live: Whether the result is unfinished.
    """

    def __init__(self, levels: Sequence[ts.TensorStore], *, live: bool) -> None:
        self.levels = tuple(levels)
        self.live = live

    def arrays(self) -> list[LazyArray]:
        """What a multiscale layer shows."""
        return [_LiveLevel(self, level) for level in range(len(self.levels))]

    def read(self, level: int, index: tuple[range | int, ...]) -> np.ndarray[Any, Any]:
        """Voxels of ``level`` at ``index``."""
        for source in range(level) if self.live else ():
            fine = self._index_at(source, level, index)
            if _decoded_voxels(self.levels[source], fine) <= _LIVE_VOXELS:
                return read_ranges(self.levels[source], fine)
        return read_ranges(self.levels[level], index)

    def _index_at(self, source: int, level: int, index: tuple[range | int, ...]) -> tuple[range | int, ...]:
        """``index`` of ``level`` as every n-th voxel of the finer ``source``."""
        fine: list[range | int] = []
        for i, n, m in zip(index, self.levels[source].shape, self.levels[level].shape, strict=True):
            f = max(1, round(n / m))
            if isinstance(i, range):
                last = min(i[-1] * f, n - 1) if i.step > 0 else i[-1] * f
                fine.append(range(i[0] * f, last + (1 if i.step > 0 else -1), i.step * f))
            else:
                fine.append(min(i * f, n - 1))
        return tuple(fine)


class _LiveLevel(LazyArray):
    def __init__(
        self, pyramid: LivePyramid, level: int, _index: tuple[range | int, ...] | None = None
    ) -> None:
        super().__init__(pyramid.levels[level], _index)
        self._pyramid, self._level = pyramid, level

    def _view(self, index: tuple[range | int, ...]) -> LazyArray:
        return _LiveLevel(self._pyramid, self._level, index)

    def _read(self) -> np.ndarray[Any, Any]:
        data = self._pyramid.read(self._level, self._index)
        if data.shape == self.shape:
            return data
        # Rounded factors can sample one voxel fewer at the far edge.
        return np.pad(data, [(0, n - m) for n, m in zip(self.shape, data.shape, strict=True)], mode="edge")


def _decoded_voxels(store: ts.TensorStore, index: Sequence[range | int]) -> int:
    """Voxels of the chunks that a read touches."""
    total = 1
    for i, chunk in zip(index, store.chunk_layout.read_chunk.shape or store.shape, strict=True):
        low, high = (min(i[0], i[-1]), max(i[0], i[-1])) if isinstance(i, range) else (i, i)
        step = abs(i.step) if isinstance(i, range) else 1
        chunks = high // chunk - low // chunk + 1
        total *= (min(chunks, len(i)) if step > chunk and isinstance(i, range) else chunks) * chunk
    return total
