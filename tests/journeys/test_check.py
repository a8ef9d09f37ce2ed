"""*Check* in the window and in plain napari: what a run will need, before it runs."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_connectoscope.task_panel import TaskPanel as PluginPanel

WAIT = 60_000


@pytest.mark.timeout(180)
def test_the_window_says_what_a_run_will_need(make_window, qtbot, tmp_path, small_model):
    window = make_window()
    window.commands.trigger(window.commands.find("File/Open Sample", "Fly larva nerve cord, ssTEM"))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    window.commands.trigger(window.commands.find("Segment", "Synapses"))
    panel = window.task_panel
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr")})
    panel.check_button.click()
    qtbot.waitUntil(lambda: panel.needs.text().startswith("blocks"), timeout=WAIT)
    assert "disk" in panel.needs.text()
    assert not panel.needs.isHidden()
    assert not (tmp_path / "out.ome.zarr").exists()
    assert window.jobs.model.rowCount() == 0  # no job of the user's
    panel.form.set_values({"threshold": 100})
    assert panel.needs.isHidden()  # it was said of other values


@pytest.mark.timeout(120)
def test_plain_napari_refuses_in_one_line_what_it_cannot_check(qtbot, tmp_path, small_model):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((4, 32, 32), np.uint8), name="memory")
    panel = PluginPanel(viewer, "segment")
    qtbot.addWidget(panel)
    panel.form.set_values({"destination": str(tmp_path / "out.ome.zarr"), "voxel_size": "47.5,4.6,4.6nm"})
    with qtbot.waitSignal(panel.checking.failed, timeout=WAIT) as refused:
        panel.check_button.click()
    assert "only in memory" in refused.args[0]
    panel.close_worker()
