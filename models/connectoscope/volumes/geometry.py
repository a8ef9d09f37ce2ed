"""Boxes, voxel sizes and units: the vocabulary of space (docs/contracts.md, "Volumes and grids").

A :class:`Box` is half-open voxel indices of one level, axes z, y, x::

        start            stop
          |################|          shape = stop - start

World coordinates are the currency between levels: ``world = translation + scale * index``, where
``translation`` is the world position of the *centre* of voxel 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from connectoscope.errors import UserError

Index3 = tuple[int, int, int]  # voxel indices or counts: z, y, x
Float3 = tuple[float, float, float]  # world lengths or positions: z, y, x

NANOMETRES = {
    "angstrom": 0.1,
    "nanometer": 1.0,
    "micrometer": 1e3,
    "millimeter": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
}
"""Length units by their OME-Zarr names, in nm."""

_SHORT_UNITS = {
    "Å": "angstrom", "a": "angstrom", "nm": "nanometer", "um": "micrometer", "µm": "micrometer",
    "μm": "micrometer", "micron": "micrometer", "microns": "micrometer", "mm": "millimeter",
    "cm": "centimeter", "m": "meter", "nanometre": "nanometer", "micrometre": "micrometer",
    "millimetre": "millimeter", "metre": "meter",
}  # fmt: skip
_SYMBOLS = {
    "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm", "meter": "m",
}  # fmt: skip


def canonical_unit(text: str) -> str | None:
    """The OME-Zarr name of a length unit ("nm" -> "nanometer"), or None when ``text`` is no known length."""
    name = text.strip()
    if name.lower() in NANOMETRES:
        return name.lower()
    return _SHORT_UNITS.get(name) or _SHORT_UNITS.get(name.lower())


def unit_symbol(unit: str) -> str:
    """The symbol of a canonical unit ("nanometer" -> "nm")."""
    return _SYMBOLS.get(unit, unit)


def convert_length(values: Float3, unit: str, to: str) -> Float3:
    """``values`` in canonical ``unit``, expressed in canonical unit ``to``."""
    factor = NANOMETRES[unit] / NANOMETRES[to]
    return (values[0] * factor, values[1] * factor, values[2] * factor)


def number_text(value: float, decimals: int = 7) -> str:
    """For tables: far below a voxel, and free of the last bits of binary fractions; 0 for what is not finite."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" or not math.isfinite(value) else text


def length_text(value: float, unit: str, decimals: int) -> str:
    """As :func:`number_text`, with as many more decimals as a tenth of a nanometre needs."""
    needed = round(math.log10(NANOMETRES[unit])) + 1 if unit in NANOMETRES else 0
    return number_text(value, max(decimals, needed))


def sizes_text(values: Iterable[float]) -> str:
    """Numbers along the axes, for people: ``40 × 4.6 × 4.6``."""
    return " × ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open voxel indices ``start <= index < stop``, axes z, y, x."""

    start: Index3
    stop: Index3

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Box:
        """The box of a whole array of ``shape`` (its last three axes)."""
        return cls((0, 0, 0), (int(shape[-3]), int(shape[-2]), int(shape[-1])))

    @property
    def shape(self) -> Index3:
        (a, b, c), (d, e, f) = self.start, self.stop
        return (max(d - a, 0), max(e - b, 0), max(f - c, 0))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        (a, b, c), (d, e, f) = self.start, self.stop
        return (slice(a, d), slice(b, e), slice(c, f))

    def intersection(self, other: Box) -> Box:
        """The common part; its size is 0 where there is none."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(max(s, min(a, b)) for s, a, b in zip(start, self.stop, other.stop, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def within(self, whole: Box) -> Box:
        """The part that lies in ``whole``, counted from its start; empty where there is none."""
        part = self.intersection(whole)
        z, y, x = (-i for i in whole.start)
        return part.shifted((z, y, x)) if part.size else Box.of((0, 0, 0))

    def contains(self, other: Box) -> bool:
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            a >= b for a, b in zip(self.stop, other.stop, strict=True)
        )

    def grown(self, before: Index3, after: Index3 | None = None) -> Box:
        """Larger by ``before`` voxels at the low faces and ``after`` (default: the same) at the high ones."""
        after = before if after is None else after
        start = tuple(a - b for a, b in zip(self.start, before, strict=True))
        stop = tuple(a + b for a, b in zip(self.stop, after, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def shifted(self, offset: Index3) -> Box:
        start = tuple(a + b for a, b in zip(self.start, offset, strict=True))
        stop = tuple(a + b for a, b in zip(self.stop, offset, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


def parse_box(text: str) -> Box:
    """Read ``z0:z1,y0:y1,x0:x1`` (half-open voxel indices).

    Raises:
        UserError: for anything else, a negative index or an empty box.
    """
    match = re.fullmatch(r"\s*(\d+):(\d+)\s*,\s*(\d+):(\d+)\s*,\s*(\d+):(\d+)\s*", text)
    if match is None:
        raise UserError(
            f"box '{text}' is not z0:z1,y0:y1,x0:x1 in whole voxels (for example 0:64,0:512,0:512)"
        )
    a, b, c, d, e, f = (int(g) for g in match.groups())
    box = Box((a, c, e), (b, d, f))
    if box.size == 0:
        raise UserError(f"box '{text}' is empty: each stop must be larger than its start")
    return box


def parse_length(text: str) -> tuple[float, str]:
    """Read ``10um`` as a length and a canonical unit.

    Raises:
        UserError: for anything else, or a length that is not positive.
    """
    try:
        (length, _, _), unit = parse_voxel_size(text)
    except UserError:
        raise UserError(f"'{text}' is not a length with a unit (for example 10um)") from None
    if "," in text:
        raise UserError(f"'{text}' is more than one length; give one with a unit (for example 10um)")
    return length, unit


def parse_voxel_size(text: str) -> tuple[Float3, str]:
    """Read ``40,4,4nm`` (z, y, x) or ``10nm`` (all three) as lengths and a canonical unit.

    Raises:
        UserError: when the unit is missing or unknown, or a number is not positive.
    """
    match = re.fullmatch(r"\s*([0-9.eE+,\s-]+?)\s*([^\W\d_]+)\s*", text)
    unit = canonical_unit(match.group(2)) if match else None
    if match is None or unit is None:
        raise UserError(f"voxel size '{text}' is not z,y,x with a unit (for example 40,4,4nm or 10nm)")
    try:
        numbers = [float(n) for n in match.group(1).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise UserError(
            f"voxel size '{text}' needs one or three positive numbers (z,y,x), for example 40,4,4nm"
        )
    return (numbers[0], numbers[1], numbers[2]), unit
