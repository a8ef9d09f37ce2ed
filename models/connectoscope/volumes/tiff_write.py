"""Writing OME-TIFF: tiled, compressed, with a pyramid in y and x, a few sections in memory at a time."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import tifffile

from connectoscope.volumes.conversion import Array, Progress, Read, reading_once
from connectoscope.volumes.geometry import Box, Float3, Index3, unit_symbol
from connectoscope.volumes.ome_zarr_write import ImageSpec
from connectoscope.volumes.pyramid import downsample

_TILE = 256
_BAND_BYTES = 64 * 2**20
_SMALLEST = 512
_OME_TYPES = {"float32": "float", "float64": "double"}


def planar_factors(shape: Index3, scale: Float3) -> tuple[Index3, ...]:
    """Factors (z, y, x) of levels that halve y and x until a section is small: pages of a TIFF have coarser ones,
    stacks of pages have not."""
    factors: list[Index3] = [(1, 1, 1)]
    while max(-(-shape[1] // factors[-1][1]), -(-shape[2] // factors[-1][2])) > _SMALLEST:
        factors.append((1, 2 * factors[-1][1], 2 * factors[-1][2]))
    return tuple(factors)


def write_ome_tiff(
    path: Path, spec: ImageSpec, read: Read, *, source_chunks: Index3, progress: Progress
) -> None:
    """Write the image as the file ``path``. Coarser levels wait on disk beside it until their turn comes.

    Raises:
        OSError: it cannot be written.
    """
    pages = math.prod(spec.lead_shape) * spec.shape[0]
    options: dict[str, Any] = {
        "photometric": "minisblack", "compression": "zlib", "tile": (_TILE, _TILE), "metadata": None,
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        coarser = [
            stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in range(len(spec.factors) - 1)
        ]
        tif = stack.enter_context(tifffile.TiffWriter(path, bigtiff=True))
        tif.write(
            _first_tiles(spec, read, source_chunks, coarser, progress, path.parent),
            shape=(pages, *spec.shape[1:]),
            dtype=spec.dtype,
            subifds=len(coarser),
            description=_ome(spec).encode("ascii", "xmlcharrefreplace"),
            **options,
        )
        for level, file in enumerate(coarser, 1):
            shape = spec.level_shape(level)[1:]
            tiles = _tiles_again(file, shape, spec.dtype)
            tif.write(tiles, shape=(pages, *shape), dtype=spec.dtype, subfiletype=1, **options)


def _first_tiles(
    spec: ImageSpec,
    read: Read,
    source_chunks: Index3,
    coarser: Sequence[IO[bytes]],
    progress: Progress,
    folder: Path,
) -> Iterator[Array]:
    """Tiles of all sections of the finest level, in order; the coarser ones go to files on the way, row by row.

    Chunks of the source that are larger than what is read at once go through a file in ``folder``.
    """
    length, height, width = spec.shape
    multiple = max(_TILE, spec.factors[-1][1])
    row = width * spec.dtype.itemsize
    rows = min(max(_BAND_BYTES // row // multiple, 1) * multiple, -(-height // multiple) * multiple)
    chunk = min(source_chunks[0], length)
    depth = max(1, min(chunk, _BAND_BYTES // (row * height))) if rows >= height else 1
    boxes = [
        Box((z, y, 0), (min(z + depth, top + chunk, length), min(y + rows, height), width))
        for top in range(0, length, chunk)
        for z in range(top, min(top + chunk, length), depth)
        for y in range(0, height, rows)
    ]
    starts = [(lead, box) for lead in np.ndindex(*spec.lead_shape) for box in boxes]
    done = 0
    with reading_once(
        read, boxes, (chunk, height, width), spec, source_chunks, folder, lambda: progress(done, len(starts))
    ) as once:
        for done, (lead, box) in enumerate(starts):
            progress(done, len(starts))
            band = once(lead, box)
            part = band
            for level, file in enumerate(coarser, 1):
                finer, factor = spec.factors[level - 1], spec.factors[level]
                step = (1, factor[1] // finer[1], factor[2] // finer[2])
                part = downsample(part, step, labels=spec.is_labels)
                file.write(part.tobytes())
            for section in band:
                yield from _tiles(section)
    progress(len(starts), len(starts))


def _tiles_again(file: IO[bytes], shape: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[Array]:
    """Tiles of the sections of ``shape`` (y, x) in a file of bare voxels, a row of them in memory at a time."""
    file.seek(0)
    height, width = shape
    for y in itertools.cycle(range(0, height, _TILE)):
        rows = min(_TILE, height - y)
        data = file.read(rows * width * dtype.itemsize)
        if not data:
            return
        yield from _tiles(np.frombuffer(data, dtype).reshape(rows, width))


def _tiles(section: Array) -> Iterator[Array]:
    """The tiles of a section, row by row; those at the edges are filled up with zeros."""
    for y in range(0, section.shape[0], _TILE):
        for x in range(0, section.shape[1], _TILE):
            part = section[y : y + _TILE, x : x + _TILE]
            tile = np.zeros((_TILE, _TILE), dtype=section.dtype)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _ome(spec: ImageSpec) -> str:
    """The OME-XML of the image."""
    z, y, x = spec.shape
    names = spec.channels or ("",)
    kind = _OME_TYPES.get(spec.dtype.name, spec.dtype.name)
    space, plane = "", ""
    if spec.unit is not None:
        unit = unit_symbol(spec.unit)
        for axis, size, place in zip("ZYX", spec.scale, spec.translation, strict=True):
            space += f' PhysicalSize{axis}="{size!r}" PhysicalSize{axis}Unit="{unit}"'
            plane += f' Position{axis}="{place!r}" Position{axis}Unit="{unit}"'
    channels = "".join(
        f'<Channel ID="Channel:0:{k}" SamplesPerPixel="1"' + (f" Name={quoteattr(n)}" if n else "") + "/>"
        for k, n in enumerate(names)
    )
    count = len(names) * (spec.times or 1) * z
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" Creator="connectoscope">'
        f'<Image ID="Image:0" Name={quoteattr(spec.name)}><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{kind}" '
        f'SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="{len(names)}" SizeT="{spec.times or 1}"{space}>'
        f'{channels}<TiffData IFD="0" PlaneCount="{count}"/><Plane TheZ="0" TheC="0" TheT="0"{plane}/>'
        "</Pixels></Image></OME>"
    )
