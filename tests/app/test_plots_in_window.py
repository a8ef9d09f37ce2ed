"""Plots, plans, points and cascade maps of jobs in the window; nothing computes here."""

from __future__ import annotations

import numpy as np
import pytest

from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.tasks.base import load_task, task_names
from connectoscope.volumes import ImageSpec, create_image
from connectoscope_app.actions import MENUS
from napari_connectoscope.cascade_map import meaning_at

WAIT = 60_000  # ms; a limit, not a pause: threads import slowly on a busy machine
POINTS = "id,z,y,x,unit,radius,score\n1,80,40,120,nanometer,20,0.9\n2,0,8,8,nanometer,10,0.8\n"


@pytest.fixture
def make_job(tmp_path, volume_file):
    """A job that has begun, and what its task would tell with."""

    def make(name: str) -> tuple[JobFolder, Context]:
        values = {"source": str(volume_file), "destination": str(tmp_path / f"{name}.ome.zarr")}
        request = JobRequest.make("segment", values, background=True, keep_job=True)
        folder = JobFolder.create(request)
        context = Context(folder, request)
        folder.events().write("started", pid=1, host="elsewhere", resumed=False)
        return folder, context

    return make


def tell_plan(context: Context, path, source) -> None:
    path.write_text("{}")
    context.plot(
        "Time against recall", {"tried": [(0.2, 0.98)]}, x="time", y="recall", marked={"chosen": (0.2, 0.98)}
    )
    context.result(
        "plan", path, "cascade", text="Takes 6 minutes instead of 41.", table=[["Time", "41 min", "6 min"]],
        task="segment", parameters={"source": str(source), "model": "synapse-vnc", "target": ["mitochondria"]},
    )  # fmt: skip


def test_a_plan_is_shown_and_leads_to_the_form(window, qtbot, make_job, volume_file, tmp_path):
    window.open_volume(str(volume_file))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    folder, context = make_job("plan")
    tell_plan(context, tmp_path / "x.cascade.json", volume_file)
    folder.events().write("finished", summary={"verdict": "x"}, exit_code=0)
    window.add_job(folder)
    window.jobs.model.watcher(0).poll()
    panel = window.plots
    assert panel.plan.verdict.text() == "Takes 6 minutes instead of 41."
    qtbot.waitUntil(lambda: panel.isVisible() and panel.view._widget.isVisible() and panel.plan.isVisible())
    assert panel.view.plot.y == "recall"
    panel.plan.run_button.click()
    values = window.task_panel.form.values()
    assert values["cascade"] == str(tmp_path / "x.cascade.json")
    assert values["source"] == str(volume_file)
    assert values["target"] == ["mitochondria"]
    assert window.task_panel.form.layer() is window.viewer.layers[0]
    assert "Mitochondria with a plan" in window.task_panel.title.text()


def test_each_job_has_its_plots_and_plan(window, make_job, volume_file, tmp_path):
    first, context = make_job("first")
    tell_plan(context, tmp_path / "x.cascade.json", volume_file)
    second, context = make_job("second")
    for step in range(0, 30, 10):
        context.metric("training", step, {"loss": 3.0 - step / 10})
    with first.lock(), second.lock():
        for folder in (first, second):
            window.add_job(folder)
            window.jobs.model.watcher(0).poll()
        panel = window.plots
        names = [panel.choice.itemText(row) for row in range(panel.choice.count())]
        assert names == ["training — second.ome.zarr", "Time against recall — first.ome.zarr"]
        assert panel.view.plot.series == {"loss": [(0, 3), (10, 2), (20, 1)]}
        assert panel.plan.isHidden()
        context.metric("training", 30, {"loss": 0.5})
        window.jobs.model.watcher(0).poll()
        panel.view.redraw()
        assert list(panel.view._lines["loss"].yData) == [3, 2, 1, 0.5]
        panel.choice.setCurrentIndex(1)
        panel.choice.activated.emit(1)
        assert not panel.plan.isHidden()
        assert panel.view.plot.name == "Time against recall"


def test_an_earlier_plan_is_shown_again(make_window, qtbot, make_job, volume_file, tmp_path):
    folder, context = make_job("plan")
    tell_plan(context, tmp_path / "x.cascade.json", volume_file)
    folder.events().write("finished", summary={}, exit_code=0)
    first = make_window()
    first.add_job(folder)
    first.close()
    second = make_window()
    assert second.plots.choice.count() == 0
    second.jobs.table.selectRow(0)
    second.jobs.show_results()
    qtbot.waitUntil(lambda: "6 minutes" in second.plots.plan.verdict.text(), timeout=WAIT)


def test_a_plan_without_a_plot_is_listed_once(window, make_job):
    panel = window.plots
    event = {"kind": "plan", "name": "c", "path": "x", "text": "Does not pay."}
    panel.add_plan("job", event)
    assert [panel.choice.itemText(0), panel.view.isHidden()] == ["Numbers — job", True]
    panel.add_plot("job", {"name": "p", "series": {"a": [1, 2]}})
    assert [panel.choice.itemText(i) for i in range(panel.choice.count())] == ["p — job"]
    assert not panel.plan.isHidden()
    assert not panel.view.isHidden()


def test_points_and_map_of_a_cascade(window, qtbot, make_job, volume_file, tmp_path):
    window.open_volume(str(volume_file))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)
    folder, context = make_job("cells")
    (tmp_path / "cells.csv").write_text(POINTS)
    path = tmp_path / "cells.cascade.ome.zarr"
    spec = ImageSpec(
        (1, 2, 3),
        np.dtype("u1"),
        (160.0, 64.0, 64.0),
        (60.0, 30.0, 30.0),
        "nanometer",
        (1, 2, 3),
        is_labels=True,
    )
    create_image(path, spec)[0].write(np.array([[[1, 2, 3], [1, 1, 1]]], np.uint8)).result()
    context.result("points", tmp_path / "cells.csv", "cells")
    context.result("labels", path, "cascade")
    folder.events().write("finished", summary={"level0_read": 0.113}, exit_code=0)
    window.add_job(folder)
    window.jobs.model.watcher(0).poll()
    assert "level 0 read: 11 %" in window.statusBar().currentMessage()
    assert window.jobs.model.index(0, 2).data() == "Done · level 0 read: 11 %"
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 3, timeout=WAIT)
    assert [layer.name for layer in window.viewer.layers] == ["small", "Cascade map", "Cells"]
    assert window.place.legend.isVisible()
    window.viewer.dims.set_point(0, 40.0)
    window.viewer.cursor.position = (40.0, 30.0, 90.0)
    qtbot.waitUntil(lambda: meaning_at(window.viewer) == "accepted", timeout=WAIT)
    window.viewer.cursor.position = (40.0, 30.0, 94.0)
    assert window.place.position.text().startswith("accepted region   z 40")
    window.viewer.layers["Cascade map"].visible = False
    assert not window.place.legend.isVisible()
    view = window.tables.table.view
    qtbot.waitUntil(lambda: view.model() is not None, timeout=WAIT)
    assert view.model().rowCount() == 2
    view.clicked.emit(view.model().index(0, 0))
    assert window.viewer.scene.camera.center[-2:] == pytest.approx((40.0, 120.0))
    assert window.viewer.dims.point[0] == 80.0


def test_a_csv_of_points_is_opened_from_the_disk(window, qtbot, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(POINTS)
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: window.tables.table.model is not None, timeout=WAIT)
    assert len(window.viewer.layers) == 1
    assert window.tables.table.model.rowCount() == 2
    path.write_text("a,b\n1,2\n")
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: window.error_dialog is not None, timeout=WAIT)
    assert "needs the columns z, y, x and unit" in window.error_dialog.line.text()
    window.error_dialog.close()
    assert window.tables.table.model.rowCount() == 2


def test_a_table_of_objects_is_opened_from_the_disk(window, qtbot, tmp_path):
    """As ``segment`` writes it: without a radius, so the points are as large as the objects."""
    path = tmp_path / "synapses.csv"
    path.write_text("id,z,y,x,unit,volume_nm3\n1,80,40,120,nanometer,5000\n2,0,0,0,nanometer,5\n")
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: window.tables.table.model is not None, timeout=WAIT)
    (layer,) = window.viewer.layers
    assert layer.data_to_world(layer.data[0]) == (80, 40, 120)
    assert layer.size * layer.scale[0] == pytest.approx([21.2, 2.12], rel=0.01)
    assert window.error_dialog is None


def test_menus_stand_in_order_and_tasks_are_in_theirs(window):
    shown = [action.text().replace("&", "") for action in window.menuBar().actions() if action.isVisible()]
    assert shown == [name for name in MENUS if name in shown]
    assert shown.index("Detect") < shown.index("Segment")
    for task in map(load_task, task_names()):
        for entry in task.menu:
            assert window.commands.find(entry.menu, entry.title)
