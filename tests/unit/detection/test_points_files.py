"""Files of points: CSV there and back, cellfinder's XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from connectoscope.detection.points import Points, points_csv, points_xml, read_points
from connectoscope.errors import UserError


def test_csv_there_and_back(tmp_path):
    points = Points(
        np.array([[1.25, 2, 3], [4, 5.5, -6]]), np.full(2, 7.0), np.array([33.5, 40]), "micrometer"
    )
    path = tmp_path / "cells.csv"
    path.write_text(points_csv(points))
    assert path.read_text().splitlines()[:2] == [
        "id,z,y,x,unit,radius,score",
        "1,1.25,2,3,micrometer,7,33.50",
    ]
    back = read_points(path)
    np.testing.assert_array_equal(back.position, points.position)
    np.testing.assert_array_equal(back.radius, points.radius)
    np.testing.assert_array_equal(back.score, points.score)
    assert back.unit == "micrometer"


def test_no_points_are_a_table_with_its_header(tmp_path):
    none = Points(np.zeros((0, 3)), np.zeros(0), np.zeros(0), "nanometer")
    path = tmp_path / "cells.csv"
    path.write_text(points_csv(none))
    assert len(read_points(path)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "z,y\n1,2\n",
        "id,z,y,x,unit,radius,score\n1,a,2,3,nanometer,1,1\n",
        "id,z,y,x,unit,radius,score\n1,2\n",
        "id,z,y,x,unit,radius,score\n1,1,2,3,nanometer,1,1\n2,1,2,3,micrometer,1,1\n",
    ],
)
def test_what_is_no_table_of_points_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_points(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_points(tmp_path / "none.csv")


def test_xml_has_the_markers_that_cellfinder_reads():
    data = points_xml(np.array([[1.4, 2.5, 3], [14, 492, 216], [3.5, 2, 2]]), "a & b.tif")
    root = ElementTree.fromstring(data)
    assert root.tag == "CellCounter_Marker_File"
    assert root.findtext("Image_Properties/Image_Filename") == "a & b.tif"
    (kind,) = root.find("Marker_Data").findall("Marker_Type")
    assert kind.findtext("Type") == "2"
    read = [[int(m.findtext(f"Marker{a}")) for a in "ZYX"] for m in kind.findall("Marker")]
    assert read == [[1, 2, 3], [14, 492, 216], [4, 2, 2]]  # halves to both sides
