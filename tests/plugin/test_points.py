"""Points: CSV and layer say the same, in world units, and are seen on every plane that cuts them."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from showing import add_result

from connectoscope.errors import UserError
from napari_connectoscope import readers
from napari_connectoscope.layers import make_layer
from napari_connectoscope.points import is_points, points_layers, write_points
from napari_connectoscope.table import ObjectTable, fly_to, read_table

CSV = """id,z,y,x,unit,radius,score
1,10.0,40.0,20.0,micrometer,6.0,0.9
2,15.0,60.0,30.0,micrometer,8.0,0.5
3,35.0,10.0,50.0,micrometer,1.0,0.25
"""
WORLD = [[10, 40, 20], [15, 60, 30], [35, 10, 50]]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "brain-cells.csv"
    path.write_text(CSV)
    return path


def event(path):
    return {"type": "result", "kind": "points", "path": str(path), "name": "cells"}


@pytest.mark.parametrize(("unit", "factor"), [("micrometer", 1.0), ("nanometer", 1000.0)])
def test_points_lie_on_the_image_in_its_unit(viewer, pixels, path, unit, factor):
    viewer.add_image(pixels, scale=np.array([5, 2, 2]) * factor, units=(unit,) * 3)
    steps = viewer.dims.nsteps
    (layer,) = add_result(viewer, event(path))
    assert layer.name == "Cells"
    assert [str(u) for u in layer.units] == [unit] * 3
    np.testing.assert_allclose([layer.data_to_world(p) for p in layer.data], np.array(WORLD) * factor)
    np.testing.assert_allclose(layer.size[:2] * layer.scale[0], np.array([12, 16]) * factor)
    assert layer.size[2] * layer.scale[0] >= 5 * factor  # else it fell between two planes
    np.testing.assert_allclose(layer.features["radius"], np.array([6, 8, 1]) * factor)
    assert list(layer.features["score"]) == [0.9, 0.5, 0.25]
    assert viewer.dims.nsteps == steps  # a press of the arrow key is a plane still
    assert viewer.layers.units is not None


def test_points_are_seen_where_they_are_cut(viewer, pixels, path):
    viewer.add_image(pixels, scale=(5, 2, 2), units=("micrometer",) * 3)
    (layer,) = add_result(viewer, event(path))
    seen = {}
    for z in (0, 5, 10, 15, 20, 25, 30, 35):
        with viewer._layer_slicer.force_sync():
            viewer.dims.set_point(0, z)
        seen[z] = {int(i) + 1 for i in layer._slicing_state._view_indices}
    assert seen == {0: set(), 5: {1}, 10: {1, 2}, 15: {1, 2}, 20: {2}, 25: set(), 30: set(), 35: {3}}


def test_a_row_leads_to_its_point(viewer, pixels, path, qtbot):
    viewer.add_image(pixels, scale=(0.005, 0.002, 0.002), units=("millimeter",) * 3)
    add_result(viewer, event(path))
    table = ObjectTable()
    qtbot.addWidget(table)
    table.show_table(read_table(path), "cells")
    titles = [table.model.headerData(i, Qt.Orientation.Horizontal) for i in range(table.model.columnCount())]
    assert titles == ["Object", "z (µm)", "y (µm)", "x (µm)", "Radius (µm)", "Score"]
    table.activated.connect(lambda world, unit: fly_to(viewer, world, unit))
    table.view.clicked.emit(table.model.index(1, 0))
    assert viewer.scene.camera.center[-2:] == pytest.approx((0.060, 0.030))
    assert viewer.dims.point[0] == pytest.approx(0.015)


def test_reader_takes_points_and_declines_other_tables(path, tmp_path):
    assert readers.get_reader(str(path)) is not None
    ((data, options, kind),) = readers.read(str(path))
    assert kind == "points"
    np.testing.assert_allclose(data * options["scale"], WORLD)
    foreign = {
        "objects.csv": "id,z,y,x,unit,volume_nm3\n1,1,1,1,nanometer,5\n",
        "napari.csv": "index,axis-0,axis-1\n0,1,2\n",
        "empty.csv": "",
        "binary.csv": "\x00\xff",
    }
    for name, text in foreign.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        assert readers.get_reader(str(tmp_path / name)) is None, name
    assert readers.get_reader([str(path), str(tmp_path / "objects.csv")]) is None
    assert not is_points(str(tmp_path / "nowhere.csv"))


def test_what_is_written_is_what_was_read(path, tmp_path):
    layer = make_layer(points_layers(str(path))[0])
    again = tmp_path / "again.csv"
    data, attributes, _ = layer.as_layer_data_tuple()
    assert write_points(str(again), data, attributes) == [str(again)]
    assert again.read_text().replace("\r", "").splitlines()[0] == CSV.splitlines()[0]
    other = make_layer(points_layers(str(again))[0])
    np.testing.assert_allclose(other.data * other.scale, WORLD)
    np.testing.assert_allclose(other.size * other.scale[0], [12, 16, 2])
    assert list(other.features["score"]) == [0.9, 0.5, 0.25]


def written(layer, path):
    write_points(str(path), *layer.as_layer_data_tuple()[:2])
    return [line.split(",")[1:] for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("unit", ["um", "nm"])
def test_points_are_saved_as_they_are_seen(viewer, pixels, path, tmp_path, unit):
    factor = {"um": 1, "nm": 1000}[unit]
    viewer.add_image(pixels, scale=np.array((5, 2, 2)) * factor, units=(unit,) * 3)
    (layer,) = add_result(viewer, event(path))
    rows = written(layer, tmp_path / "a.csv")
    assert [[float(row[i]) / factor for i in (0, 1, 2, 4)] for row in rows] == [
        [10, 40, 20, 6], [15, 60, 30, 8], [35, 10, 50, 1],  # the third is shown larger than it is
    ]  # fmt: skip
    layer.add(np.array([20, 20, 20]) * factor / layer.scale)
    assert layer.size[3] == np.median(layer.size[:3])
    layer.selected_data = {1}
    layer.current_size = 30 * factor / layer.scale[0]
    rows = written(layer, tmp_path / "b.csv")
    assert [[float(row[4]) / factor, row[5]] for row in rows] == [
        [6, "0.9"], [15, "0.5"], [6, "1"], [1, "0.25"],
    ]  # fmt: skip


def test_a_new_point_of_a_table_that_was_opened_is_as_the_others(viewer, tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text(CSV.replace(",8.0,", ",6.0,").replace(",1.0,", ",6.0,"))
    layer = make_layer(points_layers(str(path))[0])
    layer.add([0, 0, 0])
    assert written(layer, tmp_path / "again.csv")[0][4:] == ["6", "1"]


def test_a_strangers_points_get_place_radius_and_order(viewer, tmp_path):
    layer = viewer.add_points(
        [[2, 3, 4], [1, 5, 6]], size=[4, 8], scale=(5, 2, 2), translate=(1, 0, 0), units=("um",) * 3
    )
    data, attributes, _ = layer.as_layer_data_tuple()
    path = tmp_path / "mine.csv"
    write_points(str(path), data, attributes)
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    assert [row[1:6] for row in rows] == [
        ["6", "10", "12", "micrometer", "8"],
        ["11", "6", "8", "micrometer", "4"],
    ]


def test_points_of_a_moved_layer_are_where_they_are_seen(viewer, tmp_path):
    affine = np.diag([1.0, 2, 2, 1])
    affine[:3, 3] = 10, 20, 30
    layer = viewer.add_points([[1, 2, 3]], scale=(5, 2, 2), translate=(1, 0, 0), affine=affine)
    data, attributes, _ = layer.as_layer_data_tuple()
    write_points(str(tmp_path / "mine.csv"), data, attributes)
    assert (tmp_path / "mine.csv").read_text().splitlines()[1].split(",")[1:4] == ["16", "28", "42"]
    np.testing.assert_allclose(layer.data_to_world(layer.data[0]), [16, 28, 42])
    layer.rotate = (0, 0, 30)
    with pytest.raises(UserError, match="turned"):
        write_points(str(tmp_path / "no.csv"), *layer.as_layer_data_tuple()[:2])
    assert not (tmp_path / "no.csv").exists()


def test_refusals_are_one_line(tmp_path):
    path = tmp_path / "p.csv"
    for text, word in (
        ("id,z,y,x\n1,1,1,1\n", "needs the columns"),
        ("z,y,x,unit,radius\n1,1,1,nm,1\n1,1,1,um,1\n", "mixes units"),
        ("z,y,x,unit,radius\n1,one,1,nm,1\n", "is not a number"),
        ("z,y,x,unit,radius\n1,1\n", "is not a number"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=word):
            points_layers(str(path))
    with pytest.raises(UserError, match="does not hold points in z, y, x"):
        write_points(str(path), np.zeros((3, 2)), {})
    with pytest.raises(UserError, match="has a radius that is not a number"):
        write_points(str(path), np.zeros((2, 3)), {"features": {"radius": ["a", "b"]}})
    with pytest.raises(UserError, match="cannot write"):
        write_points(str(tmp_path / "no" / "p.csv"), np.zeros((3, 3)), {})


def test_no_points_at_all_is_a_layer(viewer, pixels, tmp_path):
    path = tmp_path / "none.csv"
    path.write_text(CSV.splitlines()[0] + "\n")
    viewer.add_image(pixels, scale=(40, 4, 4), units=("nm",) * 3)
    (layer,) = add_result(viewer, event(path))
    assert len(layer.data) == 0
    assert viewer.layers.units is not None
