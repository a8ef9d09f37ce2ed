"""Points as files: CSV (CONTRACTS, "Results"), and the XML that cellfinder and its relatives read."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError

HEADER = ("id", "z", "y", "x", "unit", "radius", "score")
CELL = 2  # cellfinder's marker type of a cell; 1 would be something that is none


@dataclass(frozen=True)
class Points:
    """Points in world coordinates.

    Attributes:
        position: z, y, x in ``unit``, (n, 3) float64.
        radius: In ``unit``, (n,).
        score: Response over the noise of the volume's background, (n,).
        unit: Canonical length unit.
    """

    position: NDArray[np.float64]
    radius: NDArray[np.float64]
    score: NDArray[np.float64]
    unit: str

    def __len__(self) -> int:
        return len(self.position)


def points_csv(points: Points) -> str:
    """One line a point, ids from 1 in the order of ``points``; lengths with 4 decimals, scores with 2."""
    lines = [",".join(HEADER)]
    for number, (place, radius, score) in enumerate(
        zip(points.position.tolist(), points.radius.tolist(), points.score.tolist(), strict=True), start=1
    ):
        z, y, x, r = (_length(v) for v in (*place, radius))
        lines.append(f"{number},{z},{y},{x},{points.unit},{r},{score:.2f}")
    return "\n".join(lines) + "\n"


def read_points(path: Path) -> Points:
    """The points of a CSV that :func:`points_csv` made.

    Raises:
        UserError: the file cannot be read, or lacks a column, or holds what is no number.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        numbers = np.array([[float(row[k]) for k in ("z", "y", "x", "radius", "score")] for row in rows])
        units = {row["unit"] for row in rows}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserError(
            f"{path} is no table of points with the columns {','.join(HEADER)} ({error})"
        ) from None
    if len(units) > 1:
        raise UserError(f"{path} mixes units ({', '.join(sorted(units))}); use one")
    numbers = numbers.reshape(-1, 5)
    return Points(numbers[:, :3], numbers[:, 3], numbers[:, 4], units.pop() if units else "")


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


def _length(value: float) -> str:
    """Four decimals at most, in any unit of microscopy far below a voxel."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
