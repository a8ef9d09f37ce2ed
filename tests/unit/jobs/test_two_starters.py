"""Several commands at one place: each lock has one holder, and a command runs what it was asked for or nothing."""

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from connectoscope.cli import run
from connectoscope.errors import Stopped, UserError
from connectoscope.jobs import lock as locks
from connectoscope.jobs import run as supervising
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.lock import Holder, JobLock
from connectoscope.jobs.request import JobRequest
from connectoscope.jobs.run import run_job
from connectoscope.jobs.serve import run_here


def asked(destination: Path, **values: object) -> JobRequest:
    options = {name: values.pop(name) for name in ("overwrite",) if name in values}
    return JobRequest.make(
        "fake", {"source": "sample:vnc", "destination": str(destination), **values}, **options
    )


@pytest.mark.parametrize("start", [run_job, run_here])
def test_a_job_that_another_command_has_replaced_is_not_run(tmp_path, start):
    place = tmp_path / "d.txt"
    first = JobFolder.create(asked(place))
    second = JobFolder.create(asked(place, blocks=2))
    with pytest.raises(UserError, match="taken by another command at the same moment"):
        start(first)
    assert not place.exists()
    assert start(second) == 0
    assert place.read_text() == "0\n1\n"
    second.remove()
    with pytest.raises(UserError, match="taken by another command"):
        start(first)


def test_replaced_between_the_look_and_the_lock(tmp_path, monkeypatch):
    place = tmp_path / "d.txt"
    first = JobFolder.create(asked(place))
    lock = first.lock

    def late():
        JobFolder.create(asked(place, blocks=2))
        return lock()

    monkeypatch.setattr(first, "lock", late)
    with pytest.raises(UserError, match="taken by another command"):
        run_job(first)
    assert not first.lock_path.exists()


def test_a_folder_that_is_run_is_neither_removed_nor_replaced(tmp_path):
    job = JobFolder.create(asked(tmp_path / "d.txt"))
    with job.lock():
        JobFolder(job.path).remove()
        assert job.request_path.exists()
        with pytest.raises(UserError, match="already running"):
            JobFolder.create(asked(tmp_path / "d.txt", overwrite=True))
        assert job.holder() == Holder.this_process()
    job.remove()
    assert not list(tmp_path.glob("*d.txt*"))


def test_locked_between_the_look_and_the_replacing(tmp_path, monkeypatch):
    job = JobFolder.create(asked(tmp_path / "d.txt"))
    with job.lock():
        monkeypatch.setattr(JobFolder, "holder", lambda self: None)
        with pytest.raises(UserError, match="already running"):
            JobFolder.create(asked(tmp_path / "d.txt", overwrite=True))
        assert job.lock_path.exists()


def test_removed_where_no_lock_can_be_written(tmp_path, monkeypatch):
    job = JobFolder.create(asked(tmp_path / "d.txt"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    job.remove()
    assert not job.path.exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_lock_is_whole_from_its_first_moment(tmp_path, monkeypatch, links):
    path = tmp_path / "lock"
    seen = []
    record = JobLock._record

    def watched(self, engine):
        seen.append(path.exists())
        return record(self, engine)

    def no_link(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(JobLock, "_record", watched)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    with JobLock(path):
        assert seen == [False]
        assert json.loads(path.read_text())["holder"]["pid"] == os.getpid()
        with pytest.raises(UserError, match="already running"), JobLock(path):
            pass
    assert list(tmp_path.glob("lock*")) == []


@pytest.fixture
def taken_over(monkeypatch):
    """Makes a lock that of another machine, as after a minute of silence."""
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.05)

    def take(path: Path) -> None:
        new = path.with_name("theirs")
        new.write_text(json.dumps({"name": "b", "holder": vars(Holder("elsewhere", 1, 1.0)), "engine": None}))
        new.replace(path)

    return take


def test_a_lock_that_was_taken_over_is_noticed_and_left_alone(tmp_path, until, taken_over):
    path = tmp_path / "lock"
    with JobLock(path) as lock:
        lock.check()
        taken_over(path)
        until(lock._lost.is_set)
        with pytest.raises(Stopped, match="taken over by another process"):
            lock.check()
        with pytest.raises(Stopped):
            lock.add_engine(os.getpid())
    assert json.loads(path.read_text())["name"] == "b"


def test_a_refusal_leaves_the_lock_that_tells_of_a_living_engine(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WAIT_FOR_ENGINE_SECONDS", 0.1)
    path = tmp_path / "lock"
    dead = Holder(Holder.this_process().host, 2**30, 1.0)
    engine = vars(Holder.this_process())
    path.write_text(json.dumps({"name": "b", "holder": vars(dead), "engine": engine}))
    for _ in range(2):
        with pytest.raises(UserError, match="the engine of this job still runs"), JobLock(path):
            pass
    assert [p.name for p in tmp_path.glob("lock*")] == ["lock"]


def test_a_lock_moved_aside_for_a_moment_is_still_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    path = tmp_path / "lock"
    with JobLock(path) as lock:
        path.rename(tmp_path / "aside")
        time.sleep(0.3)
        (tmp_path / "aside").rename(path)
        time.sleep(1.2)
        lock.check()
    assert not path.exists()


def test_a_run_that_was_taken_over_stops_and_tells_nothing_into_the_folder(tmp_path, taken_over):
    job = JobFolder.create(asked(tmp_path / "d.txt", trouble="stubborn"))

    def listen(event):
        if event.get("message") == "in trouble":
            taken_over(job.lock_path)

    with pytest.raises(Stopped, match="taken over"):
        run_job(job, listen)
    assert job.read_events()[0][-1]["type"] not in ("paused", "error", "cancelled")
    assert json.loads(job.lock_path.read_text())["name"] == "b"


def test_overwrite_that_was_interrupted_before_the_old_result_was_taken_away(tmp_path):
    place = tmp_path / "d.txt"
    place.write_text("old")
    job = JobFolder.create(asked(place, overwrite=True))
    assert job.may_replace(job.request)  # the old result is still there
    shutil.copy(place, tmp_path / "other")
    place.unlink()
    assert job.may_replace(job.request)  # nothing is: it has just been taken away
    (tmp_path / "other").rename(place)
    assert not job.may_replace(job.request)  # this run's own
    place.unlink()
    job.ledger_path.write_text("0\n")
    assert not job.may_replace(job.request)
    plain = JobFolder.create(asked(tmp_path / "e.txt"))
    assert plain.request.replaces is None
    assert not plain.may_replace(plain.request)


def test_what_was_begun_is_kept_where_the_new_source_is_mistyped(tmp_path):
    job = JobFolder.create(asked(tmp_path / "d.txt"))
    job.ledger_path.write_text("0\n")
    with pytest.raises(UserError, match=r"typo\.npy does not exist; check the name"):
        JobFolder.create(asked(tmp_path / "d.txt", source="typo.npy", overwrite=True))
    assert job.ledger_path.read_text() == "0\n"
    copy = job.path / "source.ome.zarr"  # of a layer in memory, yet to be made there
    JobFolder.create(asked(tmp_path / "d.txt", source=str(copy), overwrite=True))
    assert not job.ledger_path.exists()


def test_overwrite_goes_on_being_asked_for_until_the_old_result_is_gone(tmp_path):
    from connectoscope.jobs.context import Context

    place = tmp_path / "d.txt"
    place.write_text("old")
    job = JobFolder.create(asked(place, overwrite=True))
    job.events().write("progress", done=1, total=2)  # of a pilot, say
    context = Context(job, job.request)
    assert context.resumed
    assert context.overwrite
    place.unlink()
    place.write_text("new")
    os.utime(place, ns=(1, 1))
    assert not Context(job, job.request).overwrite


@pytest.mark.parametrize(
    ("status", "code", "told"), [(0, 0, None), (3, 3, "cancelled"), (4, 4, "disk may be full"), (7, 1, "bug")]
)
def test_an_end_that_found_no_room_to_be_told(tmp_path, monkeypatch, status, code, told):
    job = JobFolder.create(asked(tmp_path / "d.txt"))
    (tmp_path / "d.txt").touch()
    monkeypatch.setattr(supervising._Supervisor, "_run_engine", lambda self, scale: (status, False))
    heard = []
    write = supervising.EventWriter.write

    def full(self, type, **facts):
        return {"type": type, **facts} if type != "started" else write(self, type, **facts)

    monkeypatch.setattr(supervising.EventWriter, "write", full)
    assert run_job(job, heard.append) == code
    if told is not None:
        assert told in heard[-1]["message"]


def test_done_without_room_for_the_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supervising._Supervisor, "_run_engine", lambda self, scale: (0, False))
    assert (
        run(["fake", "x", str(tmp_path / "e.txt")]) == 1
    )  # something else ended the engine: nothing was made
    (tmp_path / "d.txt").touch()
    assert run(["fake", "x", str(tmp_path / "d.txt"), "--json"]) == 0
    assert "the disk is full" in capsys.readouterr().err


def test_serve_survives_a_folder_that_vanishes(tmp_path, start, finish, until):
    worker = start("run", "--serve")
    gone = JobFolder.create(asked(tmp_path / "a.txt", trouble="wait"))
    next_one = JobFolder.create(asked(tmp_path / "b.txt"))
    worker.stdin.write(f"{gone.path}\n{next_one.path}\n")
    worker.stdin.flush()
    until(lambda: any(event.get("message") == "in trouble" for event in gone.read_events()[0]))
    shutil.rmtree(gone.path)
    (tmp_path / "a.txt.ok").touch()
    until(lambda: next_one.state().ended)
    assert next_one.state().status == "done"
    code, _, err = finish(worker)
    assert code == 0
    assert "a.txt.job" in err
