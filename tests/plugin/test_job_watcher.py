"""What a job writes into its folder is told once, in order, and its end is recognised however it came."""

import pytest
from qtpy.QtCore import Qt

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from napari_connectoscope import jobs
from napari_connectoscope.jobs import JobModel, JobWatcher, time_left


@pytest.fixture
def folder(tmp_path):
    values = {"source": "sample:vnc", "destination": str(tmp_path / "out.ome.zarr")}
    return JobFolder.create(JobRequest.make("segment", values))


@pytest.fixture
def watcher(folder, qapp):
    watcher = JobWatcher(folder)
    watcher.stop()  # the tests poll
    watcher.told = []
    watcher.progressed.connect(lambda e: watcher.told.append(("progress", e["done"])))
    watcher.resulted.connect(lambda e: watcher.told.append(("result", e["name"])))
    watcher.logged.connect(lambda line: watcher.told.append(("log", line)))
    watcher.metric.connect(lambda e: watcher.told.append(("metric", e["step"])))
    watcher.ended.connect(lambda s: watcher.told.append(("ended", s.status)))
    return watcher


def test_tells_each_event_once(watcher, folder):
    watcher.poll()
    assert watcher.told == []
    events = folder.events()
    events.write("started", pid=1)
    events.write("log", message="hello")
    events.write("progress", done=1, total=4, phase="blocks", fraction=0.25, seconds_left=3)
    watcher.poll()
    watcher.poll()
    events.write("warning", message="odd")
    events.write("result", kind="image", path="/x", name="probabilities")
    events.write("metric", name="loss", step=7, values={"loss": 1})
    events.write("finished", summary={"objects": 3}, exit_code=0)
    watcher.poll()
    watcher.poll()
    assert watcher.told == [
        *(("log", "hello"), ("progress", 1), ("log", "Warning: odd"), ("result", "probabilities")),
        *(("metric", 7), ("ended", "done")),
    ]
    assert watcher.summary == {"objects": 3}
    assert not watcher.running


def test_half_a_line_waits(watcher, folder):
    with folder.events_path.open("ab") as file:
        file.write(b'{"v":1,"type":"log","mess')
        file.flush()
        watcher.poll()
        file.write(b'age":"whole"}\n')
    watcher.poll()
    assert watcher.told == [("log", "whole")]


def test_end_of_an_earlier_run_is_not_the_end(watcher, folder, monkeypatch):
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    events = folder.events()
    events.write("started")
    events.write("cancelled", message="cancelled", exit_code=3)
    watcher.poll()
    assert watcher.told == [("ended", "cancelled")]
    folder.cancel()
    with folder.lock():  # its process has told its end and is about to leave
        watcher.resume()
    watcher.poll()
    assert watcher.running
    assert not folder.cancel_path.exists()
    fresh = JobWatcher(folder)
    fresh.poll()
    assert fresh.running  # it, too, sees that it was started again
    events.write("started")
    events.write("finished", summary={}, exit_code=0)
    watcher.poll()
    assert watcher.told == [("ended", "cancelled"), ("ended", "done")]


def test_killed_process_is_noticed(watcher, folder, monkeypatch):
    folder.events().write("started", pid=1)
    watcher.poll()
    monkeypatch.setattr(jobs, "_QUIET_SECONDS", -1)
    watcher.poll()
    assert watcher.told == [("ended", "paused")]
    assert watcher.state.resumable


def test_process_that_never_began_is_noticed(watcher, monkeypatch):
    monkeypatch.setattr(jobs, "_START_SECONDS", -1)
    watcher.poll()
    assert watcher.told == [("ended", "failed")]
    assert "did not start" in watcher.state.message


def test_folder_that_went_after_success(watcher, folder):
    folder.events().write("started")
    folder.events().write("finished", summary={}, exit_code=0)
    events = folder.read_events(0)
    folder.remove()
    watcher.folder.read_events = lambda offset: events
    watcher.poll()
    assert watcher.told == [("ended", "done")]


def test_create_asks_for_a_job_that_is_kept(tmp_path):
    values = {"source": "sample:vnc", "destination": str(tmp_path / "new.ome.zarr")}
    request = jobs.create("segment", values).request
    assert request.background
    assert request.keep_job
    with pytest.raises(UserError, match="255"):
        jobs.create("segment", {**values, "threshold": 999})


def test_model_shows_jobs(folder, qtbot, tmp_path, qtmodeltester):
    model = JobModel()
    first = model.add(folder)
    assert model.add(folder.path) is first
    values = {"source": "sample:vnc", "destination": str(tmp_path / "two.ome.zarr")}
    model.add(jobs.create("segment", values))
    assert model.rowCount() == 2
    assert [model.data(model.index(r, 1)) for r in (0, 1)] == ["two.ome.zarr", "out.ome.zarr"]
    folder.events().write("started")
    folder.events().write("progress", done=1, total=2, phase="blocks", fraction=0.5, seconds_left=95)
    with qtbot.waitSignal(model.changed) as changed:
        first.poll()
    assert changed.args == [1]
    row = [model.data(model.index(1, column)) for column in range(5)]
    assert row == ["segment", "out.ome.zarr", "Blocks", "50 %", "1 min 35 s"]
    assert model.data(model.index(1, 3), Qt.ItemDataRole.UserRole) == 0.5
    model.cancel(1)
    assert folder.cancel_path.exists()
    folder.events().write("cancelled", message="stopped", exit_code=3)
    first.poll()
    assert model.can_resume(1)
    qtmodeltester.check(model)
    model.remove(1)
    assert model.rowCount() == 1
    model.watcher(0).stop()


@pytest.mark.parametrize(
    ("progress", "text"), [({}, ""), ({"seconds_left": None}, ""), ({"seconds_left": 3.4}, "3 s")]
)
def test_time_left(progress, text):
    assert time_left(progress) == text


def test_a_folder_made_anew_is_heard_from_its_beginning(folder, qapp):
    model = JobModel()
    watcher = model.add(folder)
    watcher.stop()
    events = folder.events()
    events.write("started", pid=1)
    events.write("result", kind="image", path="/x", name="old")
    events.write("error", message="the disk has gone: " + "a long story " * 40, exit_code=2)
    watcher.poll()
    assert watcher.state.status == "failed"
    values = {**folder.request.parameters, "threshold": 120}
    again = JobFolder.create(JobRequest.make("segment", values, overwrite=True))
    assert again.path == folder.path
    assert model.add(again) is watcher
    watcher.stop()
    assert model.request(0).parameters["threshold"] == 120
    assert model.data(model.index(0, 2)) == "Starting"
    again.events().write("started", pid=2)
    again.events().write("result", kind="image", path="/y", name="new")
    watcher.poll()
    assert [result["name"] for result in watcher.results] == ["new"]


def test_an_ended_job_that_is_added_again_stays_as_it_is_until_it_is_started(folder, qapp, monkeypatch):
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    model = JobModel()
    watcher = model.add(folder)
    watcher.stop()
    events = folder.events()
    events.write("started", pid=1)
    events.write("error", message="the model is damaged", exit_code=2)
    watcher.poll()
    assert model.add(folder) is watcher
    assert model.data(model.index(0, 2)) == "Failed"
    assert model.can_resume(0)
    jobs.start(folder)
    assert model.add(folder) is watcher
    watcher.stop()
    assert model.data(model.index(0, 2)) == "Starting"
