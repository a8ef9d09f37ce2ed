"""Chunks that are there but hold no voxels: how errors tell them from a lost connection, and what is read past them."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.volumes.geometry import Box, Index3

_DAMAGED = frozenset({"DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT"})
_STATUS = re.compile(r"([A-Z][A-Z_]+): ")


def is_corrupt(error: Exception) -> bool:
    """Whether a read failed for what the bytes are; else for the system, the network or a permission."""
    if isinstance(error, OSError):
        return error.errno is None  # decoders raise it without a number, the system with one
    status = _STATUS.match(str(error))  # TensorStore's own; decoders of ours have none
    return status is None or status.group(1) in _DAMAGED


def chunk_name(box: Box, level: int) -> str:
    """A chunk for people, the ledger and the attributes of results: ``8:16,0:128,0:128``."""
    return f"{box} of level {level}" if level else str(box)


def chunks_in(array: ts.TensorStore, chunk: Index3, box: Box) -> Iterator[Box]:
    """The chunks (z, y, x) of ``array`` that ``box`` touches, each cut to the array."""
    origin = [int(o or 0) for o in array.chunk_layout.grid_origin or (0, 0, 0)]
    spans = [
        [(max(i * c + o, 0), min((i + 1) * c + o, n)) for i in range((a - o) // c, -(-(b - o) // c))]
        for a, b, c, o, n in zip(box.start, box.stop, chunk, origin, array.shape, strict=True)
    ]
    for (z0, z1), (y0, y1), (x0, x1) in itertools.product(*spans):
        yield Box((z0, y0, x0), (z1, y1, x1))


def read_by_chunks(
    array: ts.TensorStore, chunk: Index3, box: Box, failed: Callable[[Box, Exception], None]
) -> NDArray[Any]:
    """``box`` of ``array``, (z, y, x), read chunk by chunk; 0 in each whose error ``failed`` does not raise."""
    out = np.zeros(box.shape, array.dtype.numpy_dtype)
    for found in chunks_in(array, chunk, box):
        part = found.intersection(box)
        try:
            out[part.within(box).slices] = array[part.slices].read().result()
        except (ValueError, OSError) as error:
            failed(found, error)
    return out


def outside(voxels: NDArray[Any], box: Box, gaps: list[Box]) -> NDArray[Any]:
    """Those of the ``voxels`` of ``box`` that lie in none of the ``gaps``, in a row."""
    if not gaps:
        return voxels.ravel()
    kept = np.ones(box.shape, np.bool_)
    for gap in gaps:
        kept[gap.within(box).slices] = False
    return np.asarray(voxels[kept])


class Skipped:
    """The corrupt chunks of a volume that were taken as 0. Grows while the volume is read, by any thread."""

    def __init__(self) -> None:
        self._boxes: set[tuple[int, Box]] = set()
        self._lock = threading.Lock()

    def add(self, level: int, chunk: Box) -> None:
        with self._lock:
            self._boxes.add((level, chunk))

    def within(self, level: int, box: Box) -> list[Box]:
        """Those that ``box`` touches, in raster order."""
        with self._lock:
            found = [chunk for k, chunk in self._boxes if k == level and chunk.intersection(box).size]
        return sorted(found, key=lambda chunk: chunk.start)


def told_of_skipped(names: list[str], most: int = 3) -> str:
    """One line for people."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    count = f"{len(names)} chunks of the source are" if len(names) > 1 else "1 chunk of the source is"
    return f"{count} corrupt, taken as 0: {'; '.join(names[:most])}{more}"
