"""The table of objects sorts by value, and a row leads to its place."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Box
from napari_connectoscope.points import points_layers
from napari_connectoscope.sources import fly_to_place, visible_box
from napari_connectoscope.table import ObjectTable, fly_to, read_table

CSV = """id,z,y,x,unit,volume_nm3,mean_probability,z0,z1,y0,y1,x0,x1
1,440.0,48.0,28.0,nanometer,90000.0,200.5,0,2,1,4,1,4
2,480.0,60.0,36.0,nanometer,1200.0,250.25,1,3,4,7,3,6
10,520.0,72.0,44.0,nanometer,30000.0,130.0,2,4,6,9,5,8
"""


def shown(path, qtbot):
    widget = ObjectTable()
    qtbot.addWidget(widget)
    widget.show_table(read_table(path), path.stem)
    return widget


@pytest.fixture
def table(qtbot, tmp_path):
    path = tmp_path / "synapses.csv"
    path.write_text(CSV)
    widget = shown(path, qtbot)
    return widget


def column(table, number):
    model = table.model
    return [model.data(model.index(row, number)) for row in range(model.rowCount())]


def test_shows_what_people_want(table):
    headers = [table.model.headerData(i, Qt.Orientation.Horizontal) for i in range(table.model.columnCount())]
    assert headers == [
        "Object", "z (nm)", "y (nm)", "x (nm)", "Volume (nm³)", "Mean probability",
    ]  # fmt: skip
    assert column(table, 4) == ["90,000", "1,200", "30,000"]
    assert "3 objects" in table.summary.text()


def test_marks_objects_that_are_not_trusted(qtbot, tmp_path):
    path = tmp_path / "neurons.csv"
    head, *rows = CSV.splitlines()
    more = ("mean_sd,max_sd,trusted", "0.03,0.08,yes", "0.14,0.2,no", "0.02,0.3,yes")
    path.write_text("".join(f"{a},{b}\n" for a, b in zip((head, *rows), more, strict=True)))
    widget = shown(path, qtbot)
    assert column(widget, 8) == ["yes", "no", "yes"]
    index = [widget.model.index(row, 8) for row in range(3)]
    colours = [widget.model.data(i, Qt.ItemDataRole.ForegroundRole) for i in index]
    assert [colour is not None for colour in colours] == [False, True, False]
    assert "uncertain" in widget.model.data(index[1], Qt.ItemDataRole.ToolTipRole)


def test_sorts_numbers_as_numbers(table):
    table.view.sortByColumn(4, Qt.SortOrder.AscendingOrder)
    assert column(table, 0) == ["2", "10", "1"]
    table.view.sortByColumn(0, Qt.SortOrder.DescendingOrder)
    assert column(table, 0) == ["10", "2", "1"]


def test_sorting_keeps_equal_rows_as_they_are_and_puts_words_last(qtbot, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,score,word\n1,0.5,b\n2,nan,3\n3,0.25,a\n4,0.5,10\n5,0.25,a\n")
    widget = shown(path, qtbot)
    rising, falling = Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder
    for number, order, ids in (
        (1, rising, "35142"),
        (0, rising, "12345"),
        (1, falling, "21435"),
        (0, rising, "12345"),
        (2, rising, "24351"),
        (0, rising, "12345"),
        (2, falling, "13542"),
    ):
        widget.view.sortByColumn(number, order)
        assert "".join(column(widget, 0)) == ids


def test_clicked_row_tells_its_place_after_sorting(table, qtbot):
    table.view.sortByColumn(4, Qt.SortOrder.AscendingOrder)
    with qtbot.waitSignal(table.activated) as told:
        table.view.clicked.emit(table.model.index(0, 2))
    assert told.args == [(480.0, 60.0, 36.0), "nanometer"]


def test_flying_converts_units_and_keeps_the_zoom(viewer, pixels):
    viewer.add_image(pixels, scale=(0.04, 0.004, 0.004), units=("um",) * 3)
    viewer.scene.camera.zoom = 3
    fly_to(viewer, (120.0, 48.0, 28.0), "nanometer")
    assert viewer.dims.point[0] == pytest.approx(0.12)
    assert viewer.scene.camera.center[-2:] == pytest.approx((0.048, 0.028))
    assert viewer.scene.camera.zoom == 3


def test_flying_in_a_rolled_view(viewer, pixels):
    layer = viewer.add_image(pixels, scale=(40, 4, 4), units=("nm",) * 3)
    viewer.dims.order = (1, 0, 2)
    viewer.canvas.size = (100, 100)
    fly_to(viewer, (120.0, 48.0, 28.0), "nanometer")
    assert viewer.dims.point == (120, 48, 28)
    assert viewer.scene.camera.center == (0, 120, 28)  # z down, x to the right
    fly_to_place(viewer, np.array([80.0, 48.0, 28.0]), np.array([200.0, 8.0, 40.0]), 1)
    assert viewer.scene.camera.center == (0, 80, 28)
    assert viewer.scene.camera.zoom == pytest.approx(100 / 200)
    assert visible_box(viewer, layer, depth=1) == Box((0, 12, 0), (5, 13, 33))


def test_no_table_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_table(tmp_path / "empty.csv")


def test_headers_are_shown_in_full(table):
    table.resize(300, 200)
    table.show()
    header = table.view.horizontalHeader()
    for column in range(table.model.columnCount()):
        assert header.sectionSize(column) >= header.sectionSizeHint(column)


def test_the_selection_stays_with_its_object_and_the_order_with_the_table(table, tmp_path):
    table.view.selectRow(1)
    (chosen,) = table.view.selectionModel().selectedRows()
    number = table.model.row(chosen.row())["id"]
    for column_, order in ((4, Qt.SortOrder.AscendingOrder), (0, Qt.SortOrder.DescendingOrder)):
        table.view.sortByColumn(column_, order)
        (chosen,) = table.view.selectionModel().selectedRows()
        assert table.model.row(chosen.row())["id"] == number
    again = tmp_path / "again.csv"
    again.write_text(CSV)
    table.show_table(read_table(again), "again")
    assert column(table, 0) == ["10", "2", "1"]


def test_a_row_that_was_cut_short_is_shown_and_sorted(qtbot, tmp_path):
    path = tmp_path / "cut.csv"
    path.write_text("id,z,y,x,unit,score\n1,0,0,0,nanometer,0.5\n2,0,0,0,nanometer\n3,0\n")
    widget = shown(path, qtbot)
    widget.show()
    for number in range(widget.model.columnCount()):
        widget.view.sortByColumn(number, Qt.SortOrder.DescendingOrder)
    assert sorted(column(widget, 4)) == ["", "", "0.5"]
    with pytest.raises(UserError, match="is not a table of points"):
        points_layers(str(path))
