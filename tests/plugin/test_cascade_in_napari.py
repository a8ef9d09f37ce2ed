"""In plain napari: a real plan by the widget of the manifest, a real run with it, and what was skipped."""

from __future__ import annotations

import numpy as np
from sparse_volume import CELLS, write_sparse_volume

WAIT = 90_000  # ms


def run(panel, qtbot):
    with qtbot.waitSignal(panel.ended, timeout=WAIT) as ended:
        panel.run_button.click()
    assert ended.args[0].status == "done", ended.args[0].message


def docked(viewer, name):
    return viewer.window.dock_widgets[name]


def test_plan_run_and_map(make_napari_viewer, qtbot, tmp_path):
    path = tmp_path / "brain.ome.zarr"
    write_sparse_volume(path, (64, 432, 432))
    viewer = make_napari_viewer()
    viewer.open(str(path), plugin="connectoscope")
    _, panel = viewer.window.add_plugin_dock_widget("connectoscope", "Plan a cascade")
    run(panel, qtbot)
    plan = docked(viewer, "Plan of a cascade")
    assert "instead of" in plan.verdict.text()
    assert "time against recall" in viewer.window.dock_widgets

    plan.run_button.click()
    detect = docked(viewer, "Cells with a plan")
    assert detect.form.values()["cascade"] == str(path.with_name("brain-cells.cascade.json"))
    run(detect, qtbot)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=WAIT)
    assert [layer.name for layer in viewer.layers] == ["brain", "Cascade map", "Cells"]
    assert len(viewer.layers["Cells"].data) == CELLS
    assert np.isin(np.unique(viewer.layers["Cascade map"].data[0]), (1, 2, 3)).all()
    assert "level 0 read: " in detect.status.text()
    for each in (panel, detect):
        each.close_worker()
