"""Reading TIFF and OME-TIFF: contiguous pixels are memory-mapped, compressed ones decoded segment by segment."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tensorstore as ts
import tifffile

from connectoscope.errors import UserError
from connectoscope.volumes.framing import FileImage, FileLevel, common_unit
from connectoscope.volumes.geometry import NANOMETRES, Float3, canonical_unit, sizes_text
from connectoscope.volumes.memory import stored
from connectoscope.volumes.stores import chunked_by, file_stamp, first_line

Array = np.ndarray[Any, Any]

_CHECKED_PAGES = 256
_ROWS_BYTES = 2**20  # strips are read together until they hold about this much

# What tifffile logs about damaged files reaches people as a UserError or not at all.
_LOGGER = logging.getLogger("tifffile")
_LOGGER.addHandler(logging.NullHandler())


def read_tiff(path: Path, inner: str, name: str) -> FileImage:
    """The largest series of a TIFF file, or the one whose number ``inner`` is.

    Raises:
        UserError: the file is damaged, incomplete or compressed in an unknown way.
    """
    try:
        return _read(path, inner, name)
    except UserError:
        raise
    except Exception as error:  # tifffile raises nearly everything on damaged files
        raise UserError(
            f"{path} is a damaged or incomplete TIFF ({type(error).__name__}: {first_line(error)}); "
            "fetch it again from its source"
        ) from error


def _read(path: Path, inner: str, name: str) -> FileImage:
    file = _File(path)
    index, warnings = _choose_series(file.tif, inner, path)
    series = file.tif.series[index]
    axes, note = _axes(series, path)
    pixels = _ome_pixels(file.tif, index)
    scale, translation, unit, doubt = _space(file.tif, series, pixels)
    levels = []
    for k, level in enumerate(series.levels):
        array = _open_level(file, level, series.is_multifile)[
            tuple(0 if a == "-" else slice(None) for a in axes)
        ]
        # Coarser levels in a TIFF say neither their size nor their place.
        levels.append(FileLevel(array, scale, translation) if k == 0 else FileLevel(array))
    description = file.tif.ome_metadata or series.keyframe.description
    return FileImage(
        source=str(path) + (f"::/{index}" if inner else ""),
        name=name,
        format="OME-TIFF" if file.tif.is_ome else "ImageJ TIFF" if file.tif.is_imagej else "TIFF",
        axes=axes.replace("-", ""),
        levels=tuple(levels),
        unit=unit,
        channels=_channels(file.tif, pixels),
        warnings=(*warnings, *note, *doubt),
        metadata=f"{series.shape} {series.axes} {description}",
        stamp=_stamp(path, series),
    )


def _stamp(path: Path, series: tifffile.TiffPageSeries) -> str:
    """Of ``path``, and of the other files that the pixels lie in."""
    pages = series.pages if series.is_multifile else (series.keyframe,)
    others = {_place(page) for page in pages if page is not None} - {path.resolve()}
    if not others:
        return file_stamp(path)
    stamps = [f"{p.name} {file_stamp(p)}" for p in (path, *sorted(others))]
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]


def _place(page: Any) -> Path:
    """The file that holds ``page``: of a set of OME-TIFF files any, not only the one that was opened."""
    return Path(page.parent.filehandle.path)


class _File:
    """An open TIFF. Its handle is closed when no level that reads through it is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        complaints = _Complaints()
        _LOGGER.addHandler(complaints)
        try:
            self.tif = tifffile.TiffFile(path)
            weakref.finalize(self, self.tif.close)
            _ = self.tif.series
        finally:
            _LOGGER.removeHandler(complaints)
        if complaints.lines:
            raise ValueError(complaints.lines[0])
        self.lock = threading.RLock()


class _Complaints(logging.Handler):
    """What tifffile only logs, and then guesses a shape: pages or standard tags that lie beyond the end of the file.

    Private tags of makers (32768 and above) are often broken in files that are otherwise sound.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        tag = re.search(r"TiffTag (\d+)", line)
        standard = "invalid page" in line if tag is None else int(tag.group(1)) < 32768
        if record.thread == self._thread and standard:
            self.lines.append(line)


def _choose_series(tif: tifffile.TiffFile, inner: str, path: Path) -> tuple[int, tuple[str, ...]]:
    count = len(tif.series)
    if count == 0:
        raise UserError(
            f"{path} holds no image (a damaged or incomplete TIFF?); fetch it again from its source"
        )
    number = inner.strip("/")
    if number:
        if not number.isdecimal() or int(number) >= count:
            raise UserError(f"{path} has no image '{number}'; name one of 0 to {count - 1}, as file.tif::/0")
        return int(number), ()
    largest = max(range(count), key=lambda i: (math.prod(tif.series[i].shape), -i))
    if count == 1:
        return 0, ()
    return largest, (
        f"the file holds {count} images; the largest, {largest}, is taken (choose as file.tif::/0)",
    )


def _axes(series: tifffile.TiffPageSeries, path: Path) -> tuple[str, tuple[str, ...]]:
    """One letter an axis of the series; "-" for an axis of length 1 without a meaning here."""
    letters = "".join(
        a.lower() if a in "TCZYXS" else ("?" if n > 1 or 0 in series.shape else "-")
        for a, n in zip(series.axes, series.shape, strict=True)
    )
    # Of a single pixel tifffile says 'XYX'.
    letters = "".join(
        "-" if a in letters[k + 1 :] and series.shape[k] == 1 else a for k, a in enumerate(letters)
    )
    if "?" not in letters:
        return letters, ()
    if letters.count("?") > 1 or "z" in letters or series.axes[letters.index("?")] not in "QI":
        shape = sizes_text(series.shape)
        raise UserError(
            f"{path} has axes '{series.axes}' ({shape}), which do not say what is z, channel or time: write it again "
            "with named axes (OME-TIFF or OME-Zarr)"
        )
    return letters.replace("?", "z"), ("the file does not name its first axis: taken as z",)


def _open_level(file: _File, level: tifffile.TiffPageSeries, many: bool) -> ts.TensorStore:
    """Lazy pixels of one level, axes as in the series, whose planes lie in ``many`` files or in one."""
    shape = tuple(int(n) for n in level.shape)
    dtype = np.dtype(level.dtype)
    if 0 in shape:
        return ts.array(np.empty(shape, dtype.newbyteorder("=")))
    offset = None if many else level.dataoffset  # tifffile knows only of a whole series that it is in many
    if offset is not None:
        place, holder = _place(level.keyframe), level.keyframe.parent
        if offset + math.prod(shape) * dtype.itemsize > holder.filehandle.size:
            raise UserError(f"{place} is incomplete: the file ends before its pixels do; fetch it again")
        stored_as = dtype.newbyteorder(holder.byteorder)
        return stored(np.memmap(place, dtype=stored_as, mode="r", offset=offset, shape=shape))
    lead = next(k for k in range(len(shape) + 1) if math.prod(shape[k:]) <= level.keyframe.size)
    if math.prod(shape[lead:]) != level.keyframe.size:
        raise UserError(f"{file.path} is damaged: its pages do not have the shape that it states")
    _check_complete(file, level, math.prod(shape[:lead]))
    pages = _Pages(file, level, shape[:lead], shape[lead:])
    return chunked_by(pages.read, shape, dtype.newbyteorder("="), pages.chunks)


def _check_complete(file: _File, level: tifffile.TiffPageSeries, count: int) -> None:
    """Notice a file that was cut short before anything is read from it."""
    present = len(level.pages)
    if present < count or any(level.pages[i] is None for i in range(min(count, _CHECKED_PAGES))):
        raise UserError(f"{file.path} is incomplete: some of its {count} planes are missing; fetch it again")
    for i in {*range(min(count, _CHECKED_PAGES)), count - 1}:
        page = level.pages[i]
        ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if ends and max(ends) > page.parent.filehandle.size:
            raise UserError(
                f"{_place(page)} is incomplete: the file ends before its plane {i} does; fetch it again"
            )


class _Pages:
    """Compressed pages of one level, read a tile or a group of strips at a time."""

    def __init__(
        self, file: _File, level: tifffile.TiffPageSeries, lead: tuple[int, ...], plane: tuple[int, ...]
    ) -> None:
        self._file, self._level, self._lead, self._plane = file, level, lead, plane
        page = level.keyframe
        self._flat = len(page.shape) == 2 and tuple(plane) == tuple(page.shape) and page.tiledepth in (0, 1)
        self._segment = (page.tilelength, page.tilewidth)
        if not page.is_tiled and self._flat:
            height, width = plane
            rows = max(1, min(int(page.rowsperstrip), height))
            self._segment = (rows, width)
        self.chunks = (*((1,) * len(lead)), *self._chunk())

    def _chunk(self) -> tuple[int, ...]:
        if not self._flat:
            return self._plane
        rows, width = self._segment
        if self._level.keyframe.is_tiled:
            return self._segment
        strip = rows * width * np.dtype(self._level.dtype).itemsize
        return (rows * max(1, _ROWS_BYTES // strip), width)

    def read(self, box: tuple[slice, ...]) -> Array:
        """Pixels of ``box`` (slices of the series' axes), native byte order."""
        lead, plane = box[: len(self._lead)], box[len(self._lead) :]
        out = np.zeros([b.stop - b.start for b in box], dtype=self._level.dtype.newbyteorder("="))
        for index in np.ndindex(*out.shape[: len(lead)]):
            flat = 0
            for i, b, n in zip(index, lead, self._lead, strict=True):
                flat = flat * n + b.start + i
            try:
                if self._flat:
                    self._read_segments(flat, plane[0], plane[1], out[index])
                else:
                    with self._file.lock, _opened(page := self._page(flat)):
                        out[index] = page.asarray().reshape(self._plane)[plane]
            except Exception as error:  # decoders raise nearly everything on damaged data
                raise ValueError(f"plane {flat}: {type(error).__name__}: {first_line(error)}") from error
        return out

    def _page(self, flat: int) -> Any:
        page = self._level.pages[flat]
        if page is None:
            raise ValueError("it is missing in the file")
        return page

    def _read_segments(self, flat: int, ys: slice, xs: slice, out: Array) -> None:
        high, wide = self._segment
        columns = -(-self._plane[1] // wide)
        with self._file.lock, _opened(page := self._page(flat)):
            keyframe, handle = page.keyframe, page.parent.filehandle
            tables: dict[str, Any] = {}
            if keyframe.compression in (6, 7, 34892, 33007):  # kinds of JPEG share tables between segments
                tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
            segments = []
            for row in range(ys.start // high, -(-ys.stop // high)):
                for column in range(xs.start // wide, -(-xs.stop // wide)):
                    index = row * columns + column
                    if page.databytecounts[index]:
                        handle.seek(page.dataoffsets[index])
                        segments.append((index, handle.read(page.databytecounts[index])))
        for index, data in segments:
            pixels, (_, _, y, x, _), (_, h, w, _) = keyframe.decode(data, index, **tables)
            pixels = pixels.reshape(h, w)
            y0, y1, x0, x1 = max(y, ys.start), min(y + h, ys.stop), max(x, xs.start), min(x + w, xs.stop)
            out[y0 - ys.start : y1 - ys.start, x0 - xs.start : x1 - xs.start] = pixels[
                y0 - y : y1 - y, x0 - x : x1 - x
            ]


@contextlib.contextmanager
def _opened(page: Any) -> Iterator[None]:
    """The file of ``page`` is open: of an image in many files only the first stays so."""
    handle = page.parent.filehandle
    closed = handle.closed
    handle.open()  # does nothing where it is open
    try:
        yield
    finally:
        if closed:
            handle.close()


Space = tuple[Float3 | None, Float3 | None, str | None, tuple[str, ...]]


def _space(
    tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, pixels: ElementTree.Element | None
) -> Space:
    """Voxel size and translation (z, y, x), their unit, and doubts."""
    if tif.is_ome:
        return _ome_space(pixels)
    if tif.is_imagej:
        return _imagej_space(tif, series)
    return None, None, None, ()  # the resolution of a plain TIFF is that of a printer


def _ome_pixels(tif: tifffile.TiffFile, index: int) -> ElementTree.Element | None:
    """What the OME-XML say of a series; None where they leave open which of their images it is.

    tifffile leaves out images whose files are missing, so a series is known by where its first plane lies.
    """
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return None
    firsts = [_plane(next(p for p in series.pages if p is not None)) for series in tif.series]
    images = root.findall("{*}Image/{*}Pixels")
    found = [pixels for pixels in images if firsts[index] in _ome_planes(tif, root, pixels)]
    alike = [k for k, first in enumerate(firsts) if first == firsts[index]]
    if found:  # images of the same planes come in their order
        return found[alike.index(index)] if len(found) == len(alike) else None
    return images[0] if len(images) == len(firsts) == 1 else None  # a renamed file, say


def _plane(page: Any) -> tuple[Path, int]:
    return _place(page), page.index


def _ome_planes(
    tif: tifffile.TiffFile, root: ElementTree.Element, pixels: ElementTree.Element
) -> set[tuple[Path, int]]:
    """File and number of the first plane of every TiffData, the files found as tifffile finds them."""
    own, folder = Path(tif.filehandle.path), Path(tif.filehandle.dirname)
    places: dict[str, Path] = {}  # resolving is slow, and planes are many
    planes = set()
    for data in pixels.iterfind("{*}TiffData"):
        place, uuid = own, data.find("{*}UUID")
        if uuid is not None and uuid.text != root.get("UUID"):
            name = uuid.get("FileName", "")
            if name.lower() != tif.filename.lower():
                place = places.get(name) or places.setdefault(name, (folder / name).resolve())
        planes.add((place, int(data.get("IFD", "0"))))
    return planes


def _ome_space(pixels: ElementTree.Element | None) -> Space:
    if pixels is None:
        return None, None, None, ()
    sizes = [_number(pixels.get(f"PhysicalSize{a}")) for a in "ZYX"]
    units = [canonical_unit(pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "ZYX"]
    doubt: tuple[str, ...] = ()
    if sizes[0] is None and sizes[1] is not None and pixels.get("SizeZ", "1") == "1":
        sizes[0], units[0] = sizes[1], units[1]
        doubt = ("the section states no thickness: taken as its y voxel size",)
    known = [s for s in sizes if s is not None]
    if len(known) < 3:
        missing = ", ".join(a for a, s in zip("ZYX", sizes, strict=True) if s is None)
        return None, None, None, (f"the OME metadata state no PhysicalSize{missing}",) if known else ()
    scale, unit = common_unit(known, units)
    return (scale if unit else None), _ome_position(pixels, unit), unit, doubt


def _ome_position(pixels: ElementTree.Element, unit: str | None) -> Float3 | None:
    """Where the first plane says that it lies (z, y, x), in ``unit``; None where it does not, or not in a length."""
    for plane in pixels.iterfind("{*}Plane"):
        if any(plane.get(f"The{a}") != "0" for a in "ZCT"):
            continue
        places = [plane.get(f"Position{a}") for a in "ZYX"]
        units = [canonical_unit(plane.get(f"Position{a}Unit", "")) for a in "ZYX"]
        try:
            z, y, x = (
                float(p or "") * (NANOMETRES[u or ""] / NANOMETRES[unit or ""])
                for p, u in zip(places, units, strict=True)
            )
        except (ValueError, KeyError):
            return None
        return (z, y, x) if all(map(math.isfinite, (z, y, x))) else None
    return None


def _imagej_space(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Space:
    facts = tif.imagej_metadata or {}
    text = str(facts.get("unit", ""))
    with contextlib.suppress(UnicodeDecodeError):
        text = text.encode("ascii", "backslashreplace").decode("unicode_escape")  # ImageJ writes \\u00B5m
    unit = canonical_unit(text)
    lengths = []
    for tag in ("YResolution", "XResolution"):
        value = series.keyframe.tags.valueof(tag)
        lengths.append(value[1] / value[0] if value and value[0] else None)
    y, x = lengths
    z = _number(facts.get("spacing"))
    doubt: tuple[str, ...] = ()
    if z is None and "Z" not in series.axes and y is not None:
        z, doubt = y, ("the section states no thickness: taken as its y voxel size",)
    if unit is None or z is None or y is None or x is None:
        return None, None, None, ()
    return (z, y, x), None, unit, doubt


def _channels(tif: tifffile.TiffFile, pixels: ElementTree.Element | None) -> tuple[str, ...]:
    if tif.is_ome:
        found = [] if pixels is None else pixels.findall("{*}Channel")
        return tuple(c.get("Name", "") for c in found)
    labels = (tif.imagej_metadata or {}).get("Channels") if tif.is_imagej else None
    return tuple(map(str, labels)) if isinstance(labels, list) else ()


def _number(value: Any) -> float | None:
    """A positive finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
