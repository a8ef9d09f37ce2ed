"""A sparse volume by the window alone: plan a cascade, read it, run with it, see what was skipped, cancel and resume."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels, Points
from qtpy.QtCore import Qt
from sparse_volume import CELLS, write_sparse_volume

WAIT = 120_000  # ms; processes start slowly on a busy machine


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / "brain.ome.zarr"
    return path, write_sparse_volume(path)


def run_form(window, qtbot):
    """Run what the form says."""
    rows = window.jobs.model.rowCount()
    window.commands.trigger(window.commands.find("Tools", "Run Task"))
    qtbot.waitUntil(lambda: window.jobs.model.rowCount() == rows + 1, timeout=WAIT)
    return window.jobs.model.watcher(0)


def wait_for_end(watcher, qtbot):
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    return watcher.state


def table_texts(plan):
    table = plan.table
    return [[table.item(i, j).text() for j in range(table.columnCount())] for i in range(table.rowCount())]


@pytest.mark.timeout(240)
def test_from_plan_to_what_was_skipped(make_window, qtbot, volume):
    path, cells = volume
    window = make_window()
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)

    window.commands.trigger(window.commands.find("Detect", "Plan a cascade for cells"))
    form = window.task_panel.form
    assert form.values()["detector"] == "cells"
    assert form.values()["destination"] == str(path.with_name("brain-cells.cascade.json"))
    watcher = run_form(window, qtbot)
    state = wait_for_end(watcher, qtbot)
    assert state.status == "done", state.message
    plan = window.plots.plan
    qtbot.waitUntil(lambda: plan.isVisible() and window.plots.view.isVisible(), timeout=WAIT)
    assert window.plots.view.plot.marked["chosen"][0] < 0.9
    assert plan.verdict.text().startswith("A cascade will take")
    rows = table_texts(plan)
    assert rows[0][0] == "time"
    assert rows[1][:2] == ["calls of the detector", "288"]
    assert rows[-1][:2] == ["recall relative to one level", "100 %"]

    qtbot.mouseClick(plan.run_button, Qt.MouseButton.LeftButton)
    form = window.task_panel.form
    values = form.values()
    assert form.task.name == "detect"
    assert values["source"] == str(path)
    assert values["cascade"] == str(path.with_name("brain-cells.cascade.json"))
    assert values["destination"] == str(path.with_name("brain-cells.csv"))
    watcher = run_form(window, qtbot)
    state = wait_for_end(watcher, qtbot)
    assert state.status == "done", state.message
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 3, timeout=WAIT)
    image, skipped, points = window.viewer.layers
    assert (image.name, skipped.name, points.name) == ("brain", "Cascade map", "Cells")
    assert isinstance(skipped, Labels)
    assert isinstance(points, Points)
    found = np.array(points.data) * points.scale
    nearest = np.linalg.norm(found[:, None] - cells, axis=-1)
    assert len(found) == CELLS
    assert (nearest.min(0) < 5).all()
    done = np.asarray(skipped.data[0] if skipped.multiscale else skipped.data)
    counts = np.bincount(done.ravel(), minlength=4)
    assert counts[0] == 0
    assert 0 < counts[2] < 0.1 * done.size
    assert counts[1] > 0.5 * done.size
    read = f"level 0 read: {100 * watcher.summary['level0_read']:.1f} %"
    assert read in window.statusBar().currentMessage()
    assert window.jobs.model.index(0, 2).data() == f"Done · {read}"
    assert window.place.legend.isVisible()
    assert "rejected" in window.place.legend.text()
    qtbot.waitUntil(lambda: window.tables.table.model is not None, timeout=WAIT)
    assert window.tables.table.model.rowCount() == CELLS

    window.task_panel.form.set_values({"destination": str(path.with_name("again.csv"))})
    watcher = run_form(window, qtbot)
    window.commands.trigger(window.commands.find("Tools", "Cancel Job"))
    assert wait_for_end(watcher, qtbot).status == "cancelled"
    window.commands.trigger(window.commands.find("Tools", "Resume Job"))
    state = wait_for_end(watcher, qtbot)
    assert state.status == "done", state.message
    assert path.with_name("again.csv").read_bytes() == path.with_name("brain-cells.csv").read_bytes()
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 5, timeout=WAIT)
