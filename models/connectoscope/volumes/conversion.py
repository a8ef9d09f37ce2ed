"""Filling a chunked image from any volume, level after level, with bounded memory.

A storage unit (a shard, or a chunk) is written once and atomically, so one that is there is finished: going on
after an interruption skips it.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from connectoscope.errors import Stopped, UserError
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.ome_zarr_write import ImageSpec, zarr_file
from connectoscope.volumes.pyramid import downsample
from connectoscope.volumes.stores import first_line

Array = np.ndarray[Any, Any]
Lead = tuple[int, ...]  # indices of the axes before z: (), (channel,), (time,) or (time, channel)
Read = Callable[[Lead, Box], Array]  # voxels (z, y, x) of level 0, for one channel and time
UnitFile = Callable[[Path, ImageSpec, int, Lead, Index3], Path]  # of a level, axes before z, index z, y, x
Progress = Callable[[int, int], None]  # told the blocks done and their total; may raise to stop

_REGION_BYTES = 64 * 2**20  # read at once; two more may wait to be written


def fill_pyramid(
    root: Path,
    stores: Sequence[ts.TensorStore],
    spec: ImageSpec,
    read: Read,
    *,
    source_chunks: Index3,
    progress: Progress,
    unit_file: UnitFile = zarr_file,
) -> int:
    """Write all levels of the image at ``root``; returns the number of blocks that were written.

    Args:
        stores: One a level, axes as in ``spec``.
        source_chunks: What ``read`` reads best; regions grow along x and y to read each of them once.
        unit_file: The file of a storage unit, of the format of ``stores``.

    Raises:
        Stopped: the destination cannot be written (disk full), or the source not read on; what is there is kept.
        UserError: whatever ``read`` raises before anything is there.
    """
    work = [
        (level, lead, box)
        for level, store in enumerate(stores)
        for lead in np.ndindex(*store.shape[:-3])
        for box in regions(
            spec.level_shape(level),
            _unit(store),
            spec.dtype.itemsize,
            source_chunks if level == 0 else (1, 1, 1),
        )
    ]
    pending: deque[Any] = deque()
    written = there = 0
    current = 0
    try:
        for done, (level, lead, box) in enumerate(work):
            progress(done, len(work))
            if level != current:  # a level is made from the one before it, which must be whole
                _wait(pending, root, most=0)
                current = level
            if all(
                unit_file(root, spec, level, lead, index).exists() for index in _units(stores[level], box)
            ):
                there += 1
                continue
            data = read(lead, box) if level == 0 else _coarser(stores[level - 1], spec, level, lead, box)
            pending.append(stores[level][(*lead, *box.slices)].write(data))
            written += 1
            _wait(pending, root, most=1)
    except BaseException as error:
        for future in pending:  # whoever deletes what is there must not meet a write that is still going on
            future.exception()
        if isinstance(error, UserError) and written + there:  # the source has gone, say
            raise Stopped(f"{error}; what is written is kept: mend that, then resume") from error
        raise
    _wait(pending, root, most=0)
    progress(len(work), len(work))
    return written


def _wait(pending: deque[Any], root: Path, most: int) -> None:
    while len(pending) > most:
        try:
            pending.popleft().result()
        except (ValueError, OSError) as error:
            raise Stopped(
                f"{root} cannot be written any more ({first_line(error)}); make room and start it again: it goes on"
            ) from error


def _unit(store: ts.TensorStore) -> Index3:
    z, y, x = (int(n or 1) for n in (store.chunk_layout.write_chunk.shape or (1, 1, 1))[-3:])
    return (z, y, x)


def regions(shape: Index3, unit: Index3, itemsize: int, source_chunks: Index3) -> Iterator[Box]:
    """Boxes of whole storage units that cover ``shape``, grown along x, then y, towards ``source_chunks``."""
    region = [min(u, n) for u, n in zip(unit, shape, strict=True)]
    room = _REGION_BYTES // itemsize
    for axis in (2, 1):
        wanted = math.ceil(min(source_chunks[axis], shape[axis]) / region[axis])
        region[axis] *= max(1, min(wanted, room // math.prod(region)))
    starts = (range(0, n, step) for n, step in zip(shape, region, strict=True))
    for z, y, x in itertools.product(*starts):
        stop = [min(a + n, total) for a, n, total in zip((z, y, x), region, shape, strict=True)]
        yield Box((z, y, x), (stop[0], stop[1], stop[2]))


def _units(store: ts.TensorStore, box: Box) -> Iterator[Index3]:
    """The indices of the storage units in ``box``."""
    spans = (range(a // n, -(-b // n)) for a, b, n in zip(box.start, box.stop, _unit(store), strict=True))
    for index in itertools.product(*spans):
        yield (index[0], index[1], index[2])


def _coarser(finer: ts.TensorStore, spec: ImageSpec, level: int, lead: Lead, box: Box) -> Array:
    """Voxels of ``box`` in ``level`` from the level before it, a few layers at a time."""
    z, y, x = (b // a for a, b in zip(spec.factors[level - 1], spec.factors[level], strict=True))
    shape = tuple(int(n) for n in finer.shape[-3:])
    out = np.empty(box.shape, dtype=spec.dtype)
    layer = z * math.prod(box.shape[1:]) * y * x * out.itemsize
    step = max(1, _REGION_BYTES // layer)
    for top in range(box.start[0], box.stop[0], step):
        bottom = min(top + step, box.stop[0])
        fine = Box(
            (top * z, box.start[1] * y, box.start[2] * x),
            (min(bottom * z, shape[0]), min(box.stop[1] * y, shape[1]), min(box.stop[2] * x, shape[2])),
        )
        try:
            index: tuple[int | slice, ...] = (*lead, *fine.slices)
            voxels = finer[index].read().result()
        except (ValueError, OSError) as error:
            raise UserError(f"what was written cannot be read again: {first_line(error)}") from error
        out[top - box.start[0] : bottom - box.start[0]] = downsample(voxels, (z, y, x), labels=spec.is_labels)
    return out
