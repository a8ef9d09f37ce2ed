"""Filling a chunked image from any volume, level after level, with bounded memory.

A storage unit (a shard, or a chunk) is written once and atomically, so one that is there is finished: going on
after an interruption skips it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

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

_OUT_OF_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
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
    scratch: Path | None = None,
) -> int:
    """Write all levels of the image at ``root``; returns the number of blocks that were written.

    Args:
        stores: One a level, axes as in ``spec``.
        source_chunks: What ``read`` reads best; regions grow along x and y to read each of them once.
        unit_file: The file of a storage unit, of the format of ``stores``.
        scratch: Folder for what :func:`reading_once` needs; None: chunks of the source may be read several times.

    Raises:
        Stopped: the destination cannot be written (disk full), or the source not read on; what is there is kept.
        UserError: whatever ``read`` raises before anything is there.
    """
    boxes = [
        list(
            regions(
                spec.level_shape(level),
                _unit(store),
                spec.dtype.itemsize,
                source_chunks if level == 0 else (1, 1, 1),
            )
        )
        for level, store in enumerate(stores)
    ]
    work = [
        (level, lead, box)
        for level, store in enumerate(stores)
        for lead in np.ndindex(*store.shape[:-3])
        for box in boxes[level]
    ]
    pending: deque[Any] = deque()
    written = there = 0
    current = done = 0
    slab = slab_of(boxes[0], spec, source_chunks)
    once = reading_once(read, boxes[0], slab, spec, source_chunks, scratch, lambda: progress(done, len(work)))
    try:
        with once as read:
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
            raise Stopped(f"{error}; what is written is kept: fix that, then resume") from error
        raise
    _wait(pending, root, most=0)
    progress(len(work), len(work))
    return written


def _wait(pending: deque[Any], root: Path, most: int) -> None:
    while len(pending) > most:
        try:
            pending.popleft().result()
        except (ValueError, OSError) as error:
            if any(os.strerror(number) in str(error) for number in _OUT_OF_SPACE):
                raise Stopped("the disk is full; make room, then resume") from error
            raise Stopped(
                f"{root} cannot be written any more ({first_line(error)}); make room and start it again: "
                "it continues where it stopped"
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


def slab_of(boxes: Sequence[Box], spec: ImageSpec, source_chunks: Index3) -> Index3:
    """For :func:`reading_once` of regions: one in z, in y as many as a chunk of the source needs, all of x."""
    z, y, _ = boxes[0].shape
    return (z, math.ceil(min(source_chunks[1], spec.shape[1]) / y) * y, spec.shape[2])


@contextlib.contextmanager
def reading_once(
    read: Read,
    boxes: Sequence[Box],
    slab: Index3,
    spec: ImageSpec,
    source_chunks: Index3,
    folder: Path | None,
    check: Callable[[], None],
) -> Iterator[Read]:
    """``read`` for ``boxes``, asked in their order, that decodes each chunk of the source once.

    Where chunks are larger than a box, a slab of the image at a time goes through a temporary file. It has no name, so that
    nothing is left behind even by a kill. Chunks that lie in two slabs are decoded for each.

    Args:
        slab: Shape of a slab, z, y and all of x: each holds boxes that follow each other, and whole ones.
        folder: Where the file is; None: as ``read`` is.
        check: Called before each read of the source; may raise to stop.
    """
    fits = all(min(c, n) <= b for c, n, b in zip(source_chunks, slab, boxes[0].shape, strict=True))
    if folder is None or fits:
        yield read
        return
    slabs: dict[tuple[int, int], list[Box]] = defaultdict(list)
    for box in boxes:
        slabs[box.start[0] // slab[0], box.start[1] // slab[1]].append(box)
    # As many whole sections at once as fit in a region: several threads decode them.
    z, y, x = source_chunks
    sections = max(1, _REGION_BYTES // (z * slab[1] * slab[2] * spec.dtype.itemsize))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        yield _Slab(read, slabs, slab, spec, (z * sections, y, x), folder, check, file)


@dataclass
class _Slab:
    """Voxels of a part of the image, box after box in a file; not mapped, since a full disk would then end the process.

    Attributes:
        slabs: The boxes of each slab, by its place in z and y.
        shape: Of a slab.
        chunks: What is read of the source at once, at least.
    """

    read: Read
    slabs: dict[tuple[int, int], list[Box]]
    shape: Index3
    spec: ImageSpec
    chunks: Index3
    folder: Path
    check: Callable[[], None]
    file: IO[bytes]
    held: tuple[Lead, tuple[int, int]] | None = None
    places: dict[Box, int] = field(default_factory=dict)

    def __call__(self, lead: Lead, box: Box) -> Array:
        wanted = (lead, (box.start[0] // self.shape[0], box.start[1] // self.shape[1]))
        try:
            if wanted != self.held:
                self.held = None
                self._fill(*wanted)
                self.held = wanted
            self.file.seek(self.places[box])
            voxels = np.fromfile(self.file, self.spec.dtype, box.size).reshape(box.shape)
            if box == self.slabs[wanted[1]][-1]:  # its room is needed for what is made of it
                self.held = None
                self.file.truncate(0)
            return voxels
        except OSError as error:
            raise Stopped(
                f"{self.folder} cannot be written ({error.strerror or error}); make room and start it again"
            ) from error

    def _fill(self, lead: Lead, number: tuple[int, int]) -> None:
        boxes, itemsize = self.slabs[number], self.spec.dtype.itemsize
        sizes = [box.size * itemsize for box in boxes]
        self.places = dict(zip(boxes, itertools.accumulate([0, *sizes[:-1]]), strict=True))
        slab = Box(boxes[0].start, boxes[-1].stop)
        z, y = (
            slab.start[axis] // self.chunks[axis] * self.chunks[axis] for axis in (0, 1)
        )  # chunks begin there
        shape = (slab.stop[0] - z, slab.stop[1] - y, slab.stop[2])
        for region in regions(shape, self.chunks, itemsize, shape):
            self.check()
            part = region.shifted((z, y, 0)).intersection(slab)
            voxels = self.read(lead, part)
            for box, place in self.places.items():
                common = part.intersection(box)
                if common.size:
                    self._put(voxels[common.within(part).slices], common.within(box), box.shape, place)

    def _put(self, voxels: Array, part: Box, shape: Index3, place: int) -> None:
        """Write ``voxels`` as ``part`` of the box of ``shape`` at ``place``."""
        rows = part.shape[1] if part.shape[2] == shape[2] else 1  # so many lie together
        for z, y in itertools.product(range(part.shape[0]), range(0, part.shape[1], rows)):
            first = ((part.start[0] + z) * shape[1] + part.start[1] + y) * shape[2] + part.start[2]
            self.file.seek(place + first * self.spec.dtype.itemsize)
            left = memoryview(voxels[z, y : y + rows].tobytes())
            while left:  # on a disk that becomes full, a part is written before the error comes
                left = left[self.file.write(left) :]


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
