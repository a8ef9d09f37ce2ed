"""Jobs in the window, with job folders written by hand: nothing computes here."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QApplication

from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.volumes import ImageSpec, create_image, set_attributes
from napari_connectoscope import jobs

WAIT = 60_000  # ms; a limit, not a pause: threads import slowly on a busy machine
GONE = "out.ome.zarr.job is gone: it was moved or deleted"
HEADER = "id,z,y,x,unit,volume_nm3,mean_probability,z0,z1,y0,y1,x0,x1\n"


@pytest.fixture
def job(tmp_path, volume_file):
    """A job that has begun: its image exists, nothing has ended."""
    destination = tmp_path / "out.ome.zarr"
    values = {"source": str(volume_file), "destination": str(destination), "target": ["synapses"]}
    folder = JobFolder.create(JobRequest.make("segment", values, background=True, keep_job=True))
    spec = ImageSpec(
        shape=(4, 32, 48),
        dtype=np.dtype("u1"),
        scale=(40.0, 4.0, 4.0),
        translation=(0.0, 0.0, 0.0),
        unit="nanometer",
        chunks=(4, 32, 32),
        channels=("synapses", "mitochondria"),
    )
    create_image(destination, spec)
    set_attributes(destination, finished=False)
    events = folder.events()
    events.write("started", pid=1, host="elsewhere", resumed=False)
    events.write("result", kind="image", path=str(destination), name="out", channels=list(spec.channels))
    events.write("progress", done=1, total=4, phase="probabilities", fraction=0.25, seconds_left=95.0)
    with folder.lock():  # by this process: it lives, however slow the machine
        yield folder


def finish(folder: JobFolder) -> None:
    table = folder.request.destination / "tables" / "synapses.csv"
    table.parent.mkdir()
    table.write_text(
        HEADER + "1,80,40,120,nanometer,5000,0.9,1,3,8,12,28,32\n2,0,0,0,nanometer,9,0.8,0,1,0,1,0,1\n"
    )
    set_attributes(folder.request.destination, finished=True)
    events = folder.events()
    events.write("result", kind="table", path=str(table), name="synapses")
    events.write("finished", summary={"objects": {"synapses": 2}}, exit_code=0)


@pytest.fixture
def opened(monkeypatch):
    """Folders that the system's file browser would have shown."""
    folders = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: folders.append(url.toLocalFile()))
    return folders


@pytest.fixture
def started(monkeypatch):
    """Folders of the jobs whose processes would have been started."""
    folders = []
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", folders.append)
    return folders


def trigger(window, title: str) -> str:
    """Run a command of the menu *Tools*; what the window says then."""
    window.commands.trigger(window.commands.find("Tools", title))
    return window.statusBar().currentMessage()


def test_a_running_job_shows_layers_progress_and_then_objects(window, qtbot, job):
    window.add_job(job)
    watcher = window.jobs.model.watcher(0)
    watcher.poll()
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 2, timeout=WAIT)
    shown = [layer.name for layer in window.viewer.layers if layer.visible]
    assert shown == ["Synapses · probability"]
    model = window.jobs.model
    assert model.index(0, 3).data(0x0100) == 0.25  # Qt.UserRole
    assert model.index(0, 4).data() == "1 min 35 s"
    assert window.jobs._buttons["Cancel"].isEnabled()
    window.jobs.cancel()
    assert job.cancel_path.exists()
    finish(job)
    watcher.poll()
    assert not watcher.running
    qtbot.waitUntil(lambda: window.tables.table.model is not None, timeout=WAIT)
    assert window.tables.table.model.rowCount() == 2
    assert not window.jobs._buttons["Cancel"].isEnabled()
    view = window.tables.table.view
    view.clicked.emit(view.model().index(0, 0))
    assert window.viewer.scene.camera.center[-2:] == (40.0, 120.0)
    assert window.viewer.dims.point[0] == 80.0
    window.close_volumes()
    assert (len(window.viewer.layers), window.tables.table.model) == (0, None)
    assert not window.tables.hint.isHidden()
    window.results.show(job)
    qtbot.waitUntil(lambda: window.tables.table.model is not None, timeout=WAIT)
    assert window.tables.table.model.rowCount() == 2


def test_jobs_are_there_again_in_the_next_window(make_window, qtbot, job):
    first = make_window()
    first.add_job(job)
    first.close()
    job.events().write("log", message="still there")
    finish(job)
    second = make_window()
    assert second.jobs.model.rowCount() == 1
    watcher = second.jobs.model.watcher(0)
    watcher.poll()
    assert second.jobs.model.index(0, 2).data() == "Done"
    assert len(second.viewer.layers) == 0  # the past is not pushed on anybody
    second.jobs.table.selectRow(0)
    second.jobs.show_results()
    qtbot.waitUntil(lambda: len(second.viewer.layers) == 2, timeout=WAIT)
    second.jobs.forget()
    assert second.settings.jobs == ()
    assert job.path.exists()


def test_warnings_of_a_job_are_told(window, job):
    window.add_job(job)
    warnings = ["a cascade is not worth it here.", "the voxels are coarse"]
    job.events().write("finished", summary={"warnings": warnings}, exit_code=0)
    window.jobs.model.watcher(0).poll()
    cell = window.jobs.model.index(0, 2)
    assert cell.data() == "Done · 2 warnings"
    assert all(text in cell.data(Qt.ItemDataRole.ToolTipRole) for text in warnings)
    told = window.statusBar().currentMessage()
    assert told == "out.ome.zarr: finished. Warning: a cascade is not worth it here"


def test_a_small_window_stays_small(window, qtbot, tmp_path, volume_file):
    table = tmp_path / f"{'cells_' * 30}.csv"
    table.write_text(HEADER + "1,80,40,120,nanometer,5000,0.9,1,3,8,12,28,32\n")
    window.resize(1024, 700)
    for source in (volume_file, table):
        count = len(window.viewer.layers)
        window.open_volume(str(source))
        qtbot.waitUntil(lambda count=count: len(window.viewer.layers) > count, timeout=WAIT)
        for dock in window.docks.values():
            dock.raise_()
            QApplication.processEvents()
            assert window.width() == 1024, (source.name, dock.windowTitle())


def test_a_failed_job_speaks_of_the_fields_of_its_form(window, job):
    window.add_job(job)
    job.events().write(
        "error", message="x is coarse: correct the size with --voxel-size, or --why", exit_code=2
    )
    window.jobs.model.watcher(0).poll()
    line = window.error_dialog.line.text()
    assert line == "x is coarse: correct the size with Voxel size, or --why"
    window.error_dialog.close()


def test_a_failed_job_is_one_line_with_the_log_folded(window, job):
    window.add_job(job)
    job.log_path.write_text("long story")
    job.events().write("error", message="the model 'x' is damaged: choose another", exit_code=2)
    window.jobs.model.watcher(0).poll()
    assert "damaged" in window.error_dialog.line.text()
    assert "long story" in window.error_dialog.details.toPlainText()
    window.error_dialog.close()


def test_a_vanished_result_is_told_and_not_raised(window, qtbot, job):
    window.jobs.add(job)
    finish(job)
    job.events().write("result", kind="image", path=str(job.path / "gone.ome.zarr"), name="gone")
    window.results.show(job)
    qtbot.waitUntil(lambda: "gone" in window.statusBar().currentMessage(), timeout=WAIT)


def test_a_folder_that_goes_while_its_job_runs_is_one_line(window, qtbot, job, monkeypatch):
    window.add_job(job)
    watcher = window.jobs.model.watcher(0)
    watcher.poll()
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 2, timeout=WAIT)
    monkeypatch.setattr(jobs, "_QUIET_SECONDS", -1)
    job.path.rename(job.path.with_name("elsewhere.job"))
    watcher.poll()
    assert window.error_dialog.line.text() == GONE
    assert window.jobs.model.index(0, 2).data() == "Failed"
    window.error_dialog.close()


def test_of_a_folder_that_has_gone_every_command_says_so(window, qtbot, job, tmp_path, opened, started):
    window.jobs.add(job)
    job.events().write("cancelled", message="stopped", exit_code=3)
    window.jobs.model.watcher(0).poll()
    job.path.rename(tmp_path / "elsewhere.job")
    assert trigger(window, "Resume Job") == GONE
    assert started == []
    window.statusBar().clearMessage()
    trigger(window, "Show Result")
    qtbot.waitUntil(lambda: window.statusBar().currentMessage() == GONE, timeout=WAIT)
    trigger(window, "Open Job Folder")  # the result is still there
    assert opened == [str(tmp_path)]


def test_a_job_that_only_told_has_no_folder_to_open_once_it_has_gone(window, volume_file, tmp_path, opened):
    values = {"source": str(volume_file), "destination": str(tmp_path / "out.ome.zarr")}
    folder = JobFolder.create(JobRequest.make("preflight", values), tmp_path / "out.ome.zarr.job")
    window.jobs.add(folder)
    trigger(window, "Open Job Folder")
    folder.remove()
    assert trigger(window, "Open Job Folder") == GONE
    assert opened == [str(folder.path)]


def test_a_finished_job_is_neither_cancelled_nor_resumed(window, job, started):
    window.jobs.add(job)
    assert trigger(window, "Resume Job") == "Only a paused, cancelled or failed job can be resumed"  # it runs
    finish(job)
    window.jobs.model.watcher(0).poll()
    assert trigger(window, "Cancel Job") == "This job has ended"
    assert not job.cancel_path.exists()
    assert trigger(window, "Resume Job") == "Only a paused, cancelled or failed job can be resumed"
    assert (started, job.state().status) == ([], "done")


def test_a_dropped_job_folder_joins_the_list(window, qtbot, job):
    window.open_volume(str(job.path))
    qtbot.waitUntil(lambda: window.jobs.model.rowCount() == 1, timeout=WAIT)


def test_resuming_is_told(window, job, started, monkeypatch):
    window.jobs.add(job)
    job.events().write("cancelled", message="stopped", exit_code=3)
    window.jobs.model.watcher(0).poll()
    monkeypatch.setattr(JobFolder, "holder", lambda self: None)
    assert trigger(window, "Resume Job").startswith("Resumed")
    assert started == [job]


def test_nothing_comes_after_the_volumes_were_closed(window, qtbot, job):
    """Neither what was on its way then, nor what a job makes that ran then; of that the end is told."""
    window.add_job(job)
    watcher = window.jobs.model.watcher(0)
    watcher.poll()  # its layers are being read
    window.close_volumes()
    finish(job)
    watcher.poll()
    qtbot.wait(1500)
    assert (len(window.viewer.layers), window.tables.table.model) == (0, None)
    assert "Show result" in window.statusBar().currentMessage()
    window.results.show(job)
    window.close_volumes()
    qtbot.wait(1500)
    assert (len(window.viewer.layers), window.tables.table.model) == (0, None)
    window.results.show(job)
    qtbot.waitUntil(
        lambda: len(window.viewer.layers) == 2 and window.tables.table.model is not None, timeout=WAIT
    )
    assert window.tables.table.model.rowCount() == 2


@pytest.mark.parametrize("request_", ["{nonsense", '{"schema": 1, "task": "knit", "parameters": {}}'])
def test_a_folder_that_only_looks_like_a_job_is_one_line(make_window, qtbot, job, tmp_path, request_):
    first = make_window()
    other = tmp_path / "other"
    other.mkdir()
    (other / "request.json").write_text(request_)
    first.open_volume(str(other))
    qtbot.waitUntil(lambda: first.error_dialog is not None, timeout=WAIT)
    first.error_dialog.close()
    assert first.settings.jobs == ()
    first.add_job(job)
    first.close()
    job.request_path.write_text(request_)  # damaged since, or of another version
    second = make_window()
    assert second.jobs.model.rowCount() == 0
    assert second.settings.jobs == ()
    assert second.log.toPlainText()
