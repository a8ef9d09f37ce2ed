"""The list of volumes: a click, a double click or Enter opens one, once."""

import pytest
from qtpy.QtCore import Qt

from connectoscope_app.browser import VolumeBrowser


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
