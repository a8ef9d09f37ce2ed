"""A result is scored in the window: the form proposes what is shown, the figures stand beside the plots."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

WAIT = 120_000  # ms


@pytest.mark.timeout(300)
def test_labels_are_scored_from_the_menu(make_window, qtbot, tmp_path):
    truth = np.zeros((8, 64, 64), np.uint8)
    truth[2:6, 8:24, 8:24] = 1
    truth[2:6, 40:56, 40:56] = 2
    found = truth.copy()
    found[found == 2] = 0  # one of the two
    for name, voxels in (("found", found), ("truth", truth)):
        tifffile.imwrite(tmp_path / f"{name}.tif", voxels, metadata={"axes": "ZYX"})
    window = make_window()
    window.commands.trigger(window.commands.find("Tools", "Evaluate"))
    form = window.task_panel.form
    assert form.values()["result"] == ""  # nothing was made here yet
    form.set_values({"result": str(tmp_path / "found.tif"), "truth": str(tmp_path / "truth.tif")})
    window.commands.trigger(window.commands.find("Tools", "Run Task"))
    qtbot.waitUntil(lambda: window.jobs.model.rowCount() == 1, timeout=WAIT)
    watcher = window.jobs.model.watcher(0)
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "done", watcher.state.message
    shown = window.plots.plan
    qtbot.waitUntil(lambda: shown.table.rowCount() > 0, timeout=WAIT)
    rows = {
        shown.table.item(i, 0).text(): shown.table.item(i, 1).text() for i in range(shown.table.rowCount())
    }
    assert shown.verdict.text() == "found.tif against truth.tif"
    assert rows["Objects: F1"] == "0.667"
    assert rows["Objects: false negatives"] == "1"
    assert shown.run_button.isHidden()
    assert shown.discard_button.isHidden()
