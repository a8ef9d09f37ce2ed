"""Patches in the window: after the mouse was in the panel, the keys are the canvas's."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from connectoscope.adaptation.labelling import labels_folder, write_labels
from connectoscope.adaptation.patches import Patch, PatchFile, PatchSource

WAIT = 60_000  # ms; a limit, not a pause: threads import slowly on a busy machine


@pytest.fixture
def patches(tmp_path, volume_file):
    """A file of three patches of the volume, nothing labelled."""
    source = PatchSource(
        name="small", path=str(volume_file), shape=(4, 32, 48), voxel_size=(40, 4, 4), unit="nanometer"
    )
    found = tuple(
        Patch(
            id=f"patch{n}",
            box=f"0:4,0:16,{16 * n}:{16 * n + 16}",
            world={"start": (0, 0, 64 * n), "stop": (160, 64, 64 * n + 64)},
        )
        for n in range(3)
    )
    path = tmp_path / "small.patches.json"
    file = PatchFile(schema=1, source=source, outputs=("boundary",), patches=found, model={"name": "m"})
    path.write_text(file.model_dump_json(by_alias=True))
    for patch in found:
        write_labels(labels_folder(path) / f"{patch.id}.tif", np.zeros(patch.voxels.shape, np.uint8), source)
    return path


def test_a_long_name_leaves_the_window_as_wide_as_it_was(window, qtbot, tmp_path, patches):
    name = "Neuropil_of_the_left_optic_lobe_" * 6
    long = tmp_path / f"{name}.patches.json"
    long.write_text(patches.read_text().replace('"name":"small"', f'"name":"{name}"'))
    least = window.labels.minimumSizeHint().width()
    window.label_patches(long)
    qtbot.waitUntil(lambda: len(window.viewer.layers) >= 2, timeout=WAIT)
    window.labels.flush()
    assert window.labels.minimumSizeHint().width() <= least + 100
    assert window.labels.title.toolTip() == f"Label {name}"


def test_keys_go_to_the_canvas_after_a_click(window, qtbot, patches):
    window.label_patches(patches)
    panel = window.labels
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 3, timeout=WAIT)
    canvas = window.panes.active.canvas.native

    def ticks():
        return [panel.list.item(row).checkState() == Qt.CheckState.Checked for row in range(3)]

    def click_row(row):
        place = panel.list.visualItemRect(panel.list.item(row)).center()
        qtbot.mouseClick(panel.list.viewport(), Qt.MouseButton.LeftButton, pos=place)

    assert window.focusWidget() is canvas
    panel.list.setFocus()
    qtbot.keyClick(window.focusWidget(), Qt.Key.Key_Down)
    assert (panel._current, window.focusWidget()) == (1, panel.list)  # arrow keys go on through the list
    for row in (0, 0):
        click_row(row)
        qtbot.keyClick(window.focusWidget(), Qt.Key.Key_Space)
        assert (panel._current, ticks()) == (0, [False] * 3)
    qtbot.mouseClick(panel.done_button, Qt.MouseButton.LeftButton)
    qtbot.keyClick(window.focusWidget(), Qt.Key.Key_Space)
    assert (panel._current, ticks()) == (1, [True, False, False])
    layer = window.viewer.layers.selection.active
    for key, mode in (("1", "erase"), ("2", "paint")):
        qtbot.keyClick(window.focusWidget(), key)
        assert layer.mode == mode
    qtbot.waitUntil(lambda: layer.loaded, timeout=WAIT)
    layer.data_setitem(tuple(np.array([i]) for i in (0, 1, 2)), 1)
    qtbot.keyClick(window.focusWidget(), "z", Qt.KeyboardModifier.ControlModifier)
    assert not layer.data.any()
