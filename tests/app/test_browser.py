"""The list of volumes: a click, a double click or Enter opens one, once."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from connectoscope.volumes import open_volume
from connectoscope_app.browser import VolumeBrowser, VolumeDetails, for_people, with_voxel_size


@pytest.mark.parametrize("how", ["click", "double click", "Return", "Enter"])
def test_a_volume_is_opened_once(qtbot, how):
    browser = VolumeBrowser()
    qtbot.addWidget(browser)
    browser.set_recent(["/data/brain.ome.zarr"])
    browser.show()
    qtbot.waitExposed(browser)
    opened = []
    browser.open_wanted.connect(opened.append)
    tree = browser.tree
    item = tree.topLevelItem(1).child(0)
    place = tree.visualItemRect(item).center()
    if "click" in how:
        qtbot.mouseClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=place)
    if how == "double click":  # the second half of one
        qtbot.mouseDClick(tree.viewport(), Qt.MouseButton.LeftButton, pos=place)
    elif "click" not in how:
        browser.activateWindow()
        tree.setFocus()
        qtbot.waitUntil(tree.hasFocus)
        tree.setCurrentItem(item)
        qtbot.keyClick(tree, Qt.Key.Key_Return if how == "Return" else Qt.Key.Key_Enter)
    assert opened == ["/data/brain.ome.zarr"]


def test_hints_at_the_terminal_are_left_out():
    assert for_people("the voxel size is unknown (give it with --voxel-size)") == "the voxel size is unknown"
    assert for_people("levels (2 of 3) -- are damaged") == "levels (2 of 3) -- are damaged"


def test_a_volume_told_its_voxel_size_is_as_if_opened_with_it(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 8), np.uint8))
    told = with_voxel_size(open_volume(tmp_path / "a.npy"), "40,4,4nm")
    asked = open_volume(tmp_path / "a.npy", voxel_size="40,4,4nm")
    assert told.unit == asked.unit == "nanometer"
    for ours, theirs in zip(told.levels, asked.levels, strict=True):
        assert ours.scale == theirs.scale
        assert ours.translation == theirs.translation
    assert told.warnings == asked.warnings
    assert with_voxel_size(told, "40,4,4nm") is told


def test_in_a_narrow_panel_no_number_is_cut(qtbot):
    details = VolumeDetails()
    qtbot.addWidget(details)
    details.show_volume(open_volume("sample:vnc"))
    details.resize(200, 600)
    details.show()
    qtbot.waitExposed(details)
    assert details.minimumSizeHint().width() <= 200
    for label in details.findChildren(QLabel):
        assert label.width() >= label.minimumSizeHint().width(), label.text()
        assert label.height() >= label.heightForWidth(label.width()), label.text()
