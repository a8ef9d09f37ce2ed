"""The map of a cascade: fixed colours, lies under what was found, and says in words what a cell is."""

import numpy as np
import pytest
from showing import add_result, add_volume

from connectoscope.volumes import ImageSpec, create_image, open_volume
from napari_connectoscope import readers
from napari_connectoscope.cascade_map import (
    MEANINGS,
    is_cascade_map,
    legend_html,
    level0_text,
    map_shown,
    meaning_at,
)

CELLS = np.array([[[0, 1], [2, 3]]], dtype=np.uint8)


@pytest.fixture(params=["cell.ome.zarr/labels/cascade", "cells.cascade.ome.zarr"])
def map_path(request, tmp_path):
    """Cells of (12, 48, 40) voxels on the volume of ``volume_path``."""
    path = tmp_path / "made" / request.param
    path.parent.mkdir(parents=True)
    spec = ImageSpec(
        CELLS.shape, np.dtype(np.uint8), (480.0, 192.0, 160.0), (620.0, 134.0, 98.0), "nanometer", (1, 2, 2),
        is_labels=True,
    )  # fmt: skip
    create_image(path, spec)[0].write(CELLS).result()
    return path


@pytest.fixture
def layer(viewer, volume_path, map_path, tmp_path):
    add_volume(viewer, open_volume(volume_path))
    table = tmp_path / "cells.csv"
    table.write_text("id,z,y,x,unit,radius,score\n1,440,48,28,nanometer,30,1\n")
    add_result(viewer, {"kind": "points", "path": str(table), "name": "cells"})
    return add_result(viewer, {"kind": "labels", "path": str(map_path), "name": "cascade"})[0]


def test_colours_are_fixed_and_the_map_lies_under_what_was_found(viewer, layer):
    assert [la.name for la in viewer.layers] == ["cell", "Cascade map", "Cells"]
    assert layer.opacity <= 0.4
    colours = {value: layer.colormap.map(np.array([value]))[0] for value in range(5)}
    assert colours[0][3] == colours[4][3] == 0
    assert 0 < colours[1][3] < colours[2][3] == colours[3][3] == 1
    red, _, blue = colours[2][:3]
    assert blue > red  # blue
    red, _, blue = colours[3][:3]
    assert red > blue  # orange
    np.testing.assert_allclose(layer.scale, (480, 192, 160))


def test_a_cell_is_named(viewer, layer):
    with viewer._layer_slicer.force_sync():  # without a canvas nobody takes slices from a thread
        viewer.dims.set_point(0, 620)
        layer.refresh()
    for place, word in (
        ((134, 98), ""),
        ((134, 258), "rejected"),
        ((326, 98), "accepted"),
        ((326, 258), "woken"),
    ):
        viewer.cursor.position = (620.0, *map(float, place))
        assert meaning_at(viewer) == word
    assert "level 0 was not read" in layer.features["region"][1]
    assert map_shown(viewer) is layer
    layer.visible = False
    assert map_shown(viewer) is None
    assert meaning_at(viewer) == ""
    assert all(meaning.word in legend_html() for meaning in MEANINGS.values())


def test_opened_from_the_disk_it_has_the_same_colours(map_path):
    ((_, options, kind),) = readers.read(str(map_path))
    assert kind == "labels"
    assert options["name"] == "Cascade map"
    assert not is_cascade_map("synapses")


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        ({"level0_read": 0.1131}, "level 0 read: 11 %"),
        ({"level0_read": 0.042}, "level 0 read: 4.2 %"),
        ({"level0_read": 1}, "level 0 read: 100 %"),
        ({"level0_read": None}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_what_was_read_is_told(summary, text):
    assert level0_text(summary) == text
