"""A volume: lazy levels on a common world, and what a person should know about them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorstore as ts

from connectoscope.errors import Corrupt, Unreadable, UserError
from connectoscope.volumes.corrupt import Skipped, chunk_name, is_corrupt, outside, read_by_chunks
from connectoscope.volumes.geometry import Box, Float3, Index3, convert_length
from connectoscope.volumes.stores import check_there, doubt, first_line

CORRUPT = "corrupt"  # begins the identity of chunks some of which could not be sampled
_SAMPLED_CHUNKS = 16
_SAMPLED_SIDE = 128  # a sampled chunk is clipped to this many voxels a side: plane-sized chunks stay cheap


@dataclass(frozen=True)
class Level:
    """One resolution of a volume.

    Attributes:
        array: Lazy voxels, axes (z, y, x), origin 0; channel and time are already chosen.
        scale: Voxel size (z, y, x) in the volume's unit. Unit unknown: relative to level 0, which is (1, 1, 1).
        translation: World position (z, y, x) of the centre of voxel 0, in the same unit.
        chunks: Shape (z, y, x) that reads best.
    """

    array: ts.TensorStore = field(repr=False)
    scale: Float3
    translation: Float3
    chunks: Index3

    @property
    def shape(self) -> Index3:
        z, y, x = self.array.shape
        return (int(z), int(y), int(x))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype.numpy_dtype)


@dataclass(frozen=True)
class Volume:
    """What :func:`connectoscope.volumes.open_volume` returns; nothing is read until it is asked for.

    Attributes:
        source: Absolute path or URL, with ``::/dataset`` where one was picked; "" for arrays in memory.
        name: Short name for people.
        format: For people: "OME-Zarr 0.5", "OME-TIFF", ….
        levels: Finest first.
        unit: Canonical length unit ("nanometer"); None where the voxel size is unknown.
        axes: Axes as they lie in the file ("tczyx").
        channels: Names of all channels; empty where there is no channel axis.
        channel: Index of the chosen channel, None where there is no channel axis.
        times: Number of time points.
        warnings: One line each, for people: what was assumed.
        time: Index of the chosen time point, None where there is no time axis.
        metadata_hash: sha256 of the metadata that was read.
        stamp: HTTP etag or modification time of the file; "" where there is none.
        skipped: The corrupt chunks that reading has come upon and taken as 0; None: they are errors.
    """

    source: str
    name: str
    format: str
    levels: tuple[Level, ...]
    unit: str | None
    axes: str
    channels: tuple[str, ...]
    channel: int | None
    times: int
    warnings: tuple[str, ...]
    time: int | None = None
    metadata_hash: str = ""
    stamp: str = ""
    skipped: Skipped | None = field(default=None, repr=False, compare=False)

    def skipping_corrupt(self) -> Volume:
        """The same volume, whose corrupt chunks read as 0 and are noted."""
        return replace(self, skipped=Skipped())

    @property
    def shape(self) -> Index3:
        return self.levels[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.levels[0].dtype

    def read(self, box: Box, level: int = 0) -> np.ndarray[Any, Any]:
        """The voxels of ``box`` (indices of ``level``): (z, y, x), native dtype.

        Raises:
            UserError: the box is not inside the level, or there is no such level.
            Unreadable: the data cannot be read.
            Corrupt: a chunk is damaged, and damaged ones are not skipped.
        """
        array = self.level(level).array
        whole = Box.of(tuple(array.shape))
        if not whole.contains(box):
            raise UserError(f"box {box} is not inside level {level} of {self.name}, which is {whole}")
        if box.size == 0:
            return np.empty(box.shape, dtype=self.level(level).dtype)
        try:
            voxels = np.asarray(array[box.slices].read().result())
            check_there(array, voxels)
            return voxels
        except (ValueError, OSError) as error:
            if is_corrupt(error):
                return self._read_chunks(box, level)
            raise self.unreadable(box, error) from error

    def _read_chunks(self, box: Box, level: int) -> np.ndarray[Any, Any]:
        """Read ``box`` chunk by chunk, since one of them is corrupt: skipped, or the error names it."""
        found = self.level(level)

        def failed(chunk: Box, error: Exception) -> None:
            if self.skipped is None or not is_corrupt(error):
                raise self.unreadable(chunk, error, level) from error
            self.skipped.add(level, chunk)

        return read_by_chunks(found.array, found.chunks, box, failed)

    def read_sound(self, box: Box) -> np.ndarray[Any, Any]:
        """The voxels of ``box`` in a row, without those of corrupt chunks that were skipped; raises as :meth:`read`."""
        return outside(self.read(box), box, self.skipped_in(box))

    def skipped_in(self, box: Box, level: int = 0) -> list[Box]:
        """The corrupt chunks that ``box`` touches, as far as they have been read and were skipped."""
        return [] if self.skipped is None else self.skipped.within(level, box)

    def unreadable(self, box: Box, error: Exception, level: int = 0) -> Unreadable:
        """The error for voxels of ``box`` that the file promises but does not give."""
        kind = Corrupt if is_corrupt(error) else Unreadable
        voxels = chunk_name(box, level)
        reason = first_line(error)[:200]
        return kind(
            f"{self.source or self.name}: cannot read voxels {voxels} ({doubt(self.source, error)}): {reason}"
        )

    def voxel_size_nm(self, level: int = 0) -> Float3:
        """Voxel size (z, y, x) in nanometres.

        Raises:
            UserError: the file states none and none was given.
        """
        if self.unit is None:
            raise UserError(
                f"{self.source or self.name} does not state its voxel size; give it, for example --voxel-size 40,4,4nm"
            )
        return convert_length(self.level(level).scale, self.unit, "nanometer")

    def identity(self) -> dict[str, str]:
        """What tells this input from another or a changed one, for signatures; reads 16 chunks of level 0.

        Those that are corrupt are counted: whether that matters is for those who need them to say.

        Raises:
            Unreadable: one of them cannot be reached.
        """
        finest = self.levels[0]
        grid = tuple(math.ceil(n / c) for n, c in zip(finest.shape, finest.chunks, strict=True))
        count = math.prod(grid)
        reads = []
        for flat in np.unique(np.linspace(0, count - 1, min(_SAMPLED_CHUNKS, count)).round().astype(int)):
            start = tuple(
                int(i) * c for i, c in zip(np.unravel_index(flat, grid), finest.chunks, strict=True)
            )
            stop = tuple(
                min(a + min(c, _SAMPLED_SIDE), n)
                for a, c, n in zip(start, finest.chunks, finest.shape, strict=True)
            )
            box = Box(start, stop)  # type: ignore[arg-type]
            reads.append((box, finest.array[box.slices].read()))
        digest = hashlib.sha256()
        corrupt = 0
        for box, future in reads:
            try:
                digest.update(np.ascontiguousarray(future.result()).data)
            except (ValueError, OSError) as error:
                if not is_corrupt(error):
                    raise self.unreadable(box, error) from error
                corrupt += 1
                digest.update(CORRUPT.encode())
        return {
            "source": self.source,
            "metadata": self.metadata_hash,
            "shape": "x".join(map(str, self.shape)),
            "dtype": str(self.dtype),
            "voxel_size": "x".join(map(repr, finest.scale)) + (self.unit or ""),
            "channel": "" if self.channel is None else str(self.channel),
            "time": "" if self.time is None else str(self.time),
            "stamp": self.stamp,
            "chunks": (f"{CORRUPT} {corrupt} of {len(reads)}, " if corrupt else "") + digest.hexdigest(),
        }

    def level(self, level: int) -> Level:
        """That level; UserError when there is none."""
        if not 0 <= level < len(self.levels):
            raise UserError(f"{self.name} has no level {level}; its levels are 0 to {len(self.levels) - 1}")
        return self.levels[level]
