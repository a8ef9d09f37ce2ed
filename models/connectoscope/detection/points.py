"""Points as files: CSV (docs/contracts.md, "Tables"), and the XML that cellfinder and its relatives read."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import canonical_unit, length_text

HEADER = ("id", "z", "y", "x", "unit", "radius", "score")
CELL = 2  # cellfinder's marker type of a cell; 1 would be something that is none


@dataclass(frozen=True)
class Points:
    """Points in world coordinates.

    Attributes:
        position: z, y, x in ``unit``, in voxels where there is none; (n, 3) float64.
        radius: In ``unit``, (n,); NaN where it is not known.
        score: Response over the noise of the volume's background, (n,); NaN where there is none.
        unit: Canonical length unit; "" where a file states none.
    """

    position: NDArray[np.float64]
    radius: NDArray[np.float64]
    score: NDArray[np.float64]
    unit: str

    def __len__(self) -> int:
        return len(self.position)


def named_after(destination: Path, ending: str) -> Path:
    """``cells.json`` of ``cells.csv``; ``cells.xml.json`` of ``cells.xml``, so that both can lie in one folder."""
    stem = destination.stem if destination.suffix.lower() == ".csv" else destination.name
    return destination.with_name(stem + ending)


def points_csv(points: Points) -> str:
    """One line a point, ids from 1 in the order of ``points``; lengths with 4 decimals (in metres 10), scores with 2."""
    lines = [",".join(HEADER)]
    for number, (place, radius, score) in enumerate(
        zip(points.position.tolist(), points.radius.tolist(), points.score.tolist(), strict=True), start=1
    ):
        z, y, x, r = (length_text(v, points.unit, 4) for v in (*place, radius))
        lines.append(f"{number},{z},{y},{x},{points.unit},{r},{score:.2f}")
    return "\n".join(lines) + "\n"


def read_points(path: Path) -> Points:
    """The points of a table (``detect``, ``segment``, or by hand) or of cellfinder's XML.

    Args:
        path: CSV with the columns z, y, x, and perhaps unit, radius and score (NaN where there are none); or XML.

    Raises:
        UserError: the file cannot be read, lacks a column, or holds what is no number or no unit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    return _from_xml(data, path) if path.suffix.lower() == ".xml" else _from_csv(data, path)


def _from_csv(data: bytes, path: Path) -> Points:
    try:
        table = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True)
        if not {"z", "y", "x"} <= set(table.fieldnames or ()):
            raise ValueError("a column is missing")
        rows = list(table)
        if any(None in row.values() for row in rows):
            raise ValueError("a row is too short")
        numbers = np.array(
            [
                [*(float(row[k]) for k in "zyx"), *(float(row.get(k) or "nan") for k in ("radius", "score"))]
                for row in rows
            ]
        ).reshape(-1, 5)
        units = {row.get("unit") or "" for row in rows}
        _check_positions(numbers[:, :3])
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is not a table of points with the columns z,y,x and optionally unit ({error})"
        ) from None
    if len(units) > 1:
        raise UserError(f"{path} mixes units ({', '.join(sorted(units))}): convert all rows to one")
    text = units.pop() if units else ""
    unit = "" if text in ("", "pixel") else canonical_unit(text)  # napari says pixel where it knows no unit
    if unit is None:
        raise UserError(f"{path} has the unit '{text}', which is not a known unit of length")
    return Points(numbers[:, :3], numbers[:, 3], numbers[:, 4], unit)


def _check_positions(position: NDArray[np.float64]) -> None:
    if not (np.abs(position) < 1e15).all():  # also not a number
        raise ValueError("a position is not a number, or absurdly large")


def _from_xml(data: bytes, path: Path) -> Points:
    try:
        kinds = [
            kind
            for kind in ElementTree.fromstring(data).iter("Marker_Type")
            if kind.findtext("Type") == str(CELL)
        ]
        places = [
            [int(m.findtext(f"Marker{axis}", "")) for axis in "ZYX"] for k in kinds for m in k.iter("Marker")
        ]
        position = np.array(places, float).reshape(-1, 3)
        _check_positions(position)
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
        OverflowError,
    ) as error:  # LookupError: no such encoding
        raise UserError(f"{path} is not a file of markers as cellfinder writes it ({error})") from None
    if not kinds:
        raise UserError(f"{path} holds no markers of type {CELL}, which are cells")
    nothing = np.full(len(position), np.nan)
    return Points(position, nothing, nothing, "")


def points_xml(voxels: NDArray[np.float64], name: str) -> bytes:
    """Points as a Cell Counter marker file with whole voxel indices; halves, which are common in z, go either way.

    Args:
        voxels: z, y, x in voxels of level 0 of the source, (n, 3).
        name: Of the image, for people.
    """
    root = ElementTree.Element("CellCounter_Marker_File")
    _add(_add(root, "Image_Properties"), "Image_Filename", name)
    data = _add(root, "Marker_Data")
    _add(data, "Current_Type", "1")
    markers = _add(data, "Marker_Type")
    _add(markers, "Type", str(CELL))
    for z, y, x in np.rint(voxels).astype(np.int64).tolist():
        marker = _add(markers, "Marker")
        for axis, index in zip("XYZ", (x, y, z), strict=True):
            _add(marker, f"Marker{axis}", str(index))
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _add(parent: ElementTree.Element, tag: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = text
    return child
