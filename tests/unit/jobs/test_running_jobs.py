"""Jobs for real: supervisor, engine and their deaths, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectoscope.errors import UserError
from connectoscope.jobs import run as supervising
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.lock import process_started
from connectoscope.jobs.request import JobRequest
from connectoscope.jobs.run import run_job, start_detached

COUNTED = "0\n1\n2\n3\n"


def job_at(destination: Path) -> JobFolder:
    return JobFolder(f"{destination}.job")


def in_trouble(job: JobFolder) -> bool:
    return any(event.get("message") == "in trouble" for event in job.read_events()[0])


def summary_of(job: JobFolder) -> dict[str, object]:
    """Of its finished run."""
    return job.read_events()[0][-1]["summary"]


def new_job(destination: Path, trouble: str = "none", **options) -> JobFolder:
    request = JobRequest.make(
        "fake", {"source": "x", "destination": str(destination), "trouble": trouble}, **options
    )
    return JobFolder.create(request)


def test_a_run_that_ends_well_leaves_its_result_and_nothing_else(command, tmp_path):
    code, out, err = command("fake", "x", "d.txt", "--json")
    assert (code, (tmp_path / "d.txt").read_text()) == (0, COUNTED)
    summary = json.loads(out)
    assert summary["task"] == "fake"
    assert summary["blocks"] == 4
    assert summary["warnings"] == ["the moon is full"]
    assert summary["peak_memory_mb"] > 1
    assert err.count("the moon is full") == 1
    assert "chatter" not in err
    assert not job_at(tmp_path / "d.txt").path.exists()


def test_a_kept_job_folder_tells_the_whole_story_and_goes_on_saying_so(command, tmp_path):
    code, out, _ = command("fake", "x", "d.txt", "--keep-job", "--blocks", "2")
    job = job_at(tmp_path / "d.txt")
    assert code == 0
    assert "blocks" in out
    assert job.state().status == "done"
    events, offset = job.read_events()
    assert events[0]["type"] == "started"
    assert {"progress", "warning", "result", "finished"} <= {e["type"] for e in events}
    assert all(e["v"] == 1 for e in events)
    assert job.read_events(offset) == ([], offset)
    assert "chatter" in job.log_path.read_text()
    assert not job.lock_path.exists()
    code, _, err = command("fake", "x", "d.txt", "--blocks", "3")
    assert code == 2
    assert "blocks was 2, now 3" in err
    assert "--overwrite" in err
    (tmp_path / "d.txt").unlink()
    code, _, _ = command("fake", "x", "d.txt", "--blocks", "2", "--keep-job")
    assert (code, (tmp_path / "d.txt").read_text()) == (0, "0\n1\n")
    code, _, _ = command("fake", "x", "d.txt", "--blocks", "3", "--overwrite")
    assert (code, (tmp_path / "d.txt").read_text()) == (0, "0\n1\n2\n")


def test_engine_killed_from_outside_is_paused_and_resumed_by_the_same_command(command, tmp_path):
    job = job_at(tmp_path / "d.txt")
    code, _, err = command("fake", "x", "d.txt", "--trouble", "kill")
    assert code == 4
    assert "SIGKILL" in err
    assert f"connectoscope run {job.path}" in err
    assert job.state().status == "paused"
    code, _, err = command("fake", "x", "d.txt", "--trouble", "full")
    assert code == 2
    assert "trouble was kill, now full" in err
    (tmp_path / "d.txt.ok").touch()
    code, _, err = command("fake", "x", "d.txt", "--trouble", "kill")
    assert (code, (tmp_path / "d.txt").read_text()) == (0, COUNTED)
    assert "going on with the unfinished run" in err
    assert not job.path.exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_supervisor_killed_takes_the_engine_along_and_the_job_can_be_resumed(start, command, until, tmp_path):
    job = job_at(tmp_path / "d.txt")
    process = start("fake", "x", "d.txt", "--trouble", "stubborn")
    until(lambda: in_trouble(job))
    engine = json.loads(job.lock_path.read_text())["engine"]["pid"]
    assert job.state().status == "running"
    process.kill()
    until(lambda: process_started(engine) is None)
    assert job.state().status == "paused"  # the dead supervisor is still a zombie here
    (tmp_path / "d.txt.ok").touch()
    code, _, err = command("run", job.path)
    assert (code, (tmp_path / "d.txt").read_text()) == (0, COUNTED)
    assert "going on" in err


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("how", ["interrupt", "file"])
def test_cancel_ends_with_3_and_can_be_resumed(start, finish, command, until, tmp_path, how):
    job = job_at(tmp_path / "d.txt")
    process = start("fake", "x", "d.txt", "--trouble", "wait")
    until(lambda: in_trouble(job))
    if how == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        job.cancel()
    code, out, err = finish(process)
    assert (code, out) == (3, "")
    assert "cancelled" in err
    assert job.state().status == "cancelled"
    (tmp_path / "d.txt.ok").touch()
    code, _, _ = command("run", job.path)
    assert (code, (tmp_path / "d.txt").read_text()) == (0, COUNTED)


def test_an_engine_that_does_not_stop_is_killed(monkeypatch, until, tmp_path):
    monkeypatch.setattr(supervising, "CANCEL_SECONDS", 0.2)
    job = new_job(tmp_path / "d.txt", "stubborn")
    assert run_job(job, lambda event: job.cancel() if event.get("message") == "in trouble" else None) == 3
    assert job.state().status == "cancelled"


def test_out_of_memory_kill_halves_the_tile_and_goes_on(tmp_path):
    kills = iter([0, 1, 1, 1])
    job = new_job(tmp_path / "d.txt", "kill")
    assert run_job(job, count_oom_kills=lambda: {"host": next(kills)}) == 0
    assert summary_of(job)["tile_scale"] == 1
    assert [e["tile_scale"] for e in job.read_events()[0] if e["type"] == "restarted"] == [1]
    assert (tmp_path / "d.txt").read_text() == COUNTED


def test_memory_that_never_suffices_pauses_after_two_halvings(tmp_path):
    job = new_job(tmp_path / "d.txt", "memory")
    assert run_job(job, count_oom_kills=dict) == 4
    state = job.state()
    assert (state.status, state.exit_code) == ("paused", 4)
    assert "memory" in state.message
    (tmp_path / "d.txt.ok").touch()
    assert run_job(job) == 0
    assert summary_of(job)["tile_scale"] == 2  # the plan was halved for good


@pytest.mark.parametrize(
    ("trouble", "code", "text"),
    [
        ("full", 4, "disk is full"),
        ("denied", 4, "/some/where"),
        ("user", 2, "no volume"),
        ("exit", 1, "engine.log"),
    ],
)
def test_each_end_has_its_code_and_one_line(command, tmp_path, trouble, code, text):
    found, out, err = command("fake", "x", "d.txt", "--trouble", trouble)
    last = err.splitlines()[-1]
    assert (found, out) == (code, "")
    assert last.startswith("connectoscope: ")
    assert text in last
    assert job_at(tmp_path / "d.txt").path.exists() == (trouble != "user")  # nothing left behind by bad input


def test_a_bug_leaves_its_traceback_in_the_log_only(command, tmp_path):
    code, _, err = command("fake", "x", "d.txt", "--trouble", "bug")
    log = job_at(tmp_path / "d.txt").log_path
    assert code == 1
    assert str(log) in err
    assert "KeyError: 'surprise'" in log.read_text()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_second_starter_is_told(start, finish, command, until, tmp_path):
    job = job_at(tmp_path / "d.txt")
    first = start("fake", "x", "d.txt", "--trouble", "wait")
    until(lambda: in_trouble(job))
    for arguments in (("run", job.path), ("fake", "x", "d.txt", "--trouble", "wait")):
        code, _, err = command(*arguments)
        assert code == 2
        assert f"already running (process {first.pid})" in err
    (tmp_path / "d.txt.ok").touch()
    assert finish(first)[0] == 0


def test_a_detached_job_runs_by_itself_and_keeps_its_folder(until, tmp_path):
    job = new_job(tmp_path / "d.txt", background=True)
    job.cancel()  # of an earlier wish; starting is the newer one
    assert job.state().status == "cancelled"
    start_detached(job)
    until(lambda: job.state().ended and job.holder() is None)
    assert (job.state().status, (tmp_path / "d.txt").read_text()) == ("done", COUNTED)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_detached_job_outlives_a_killed_starter(until, tmp_path):
    job = new_job(tmp_path / "d.txt", "wait", background=True)
    starter = (
        "import os, sys; from connectoscope.jobs.run import start_detached; "
        "start_detached(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", starter, str(job.path)], check=False)
    until(lambda: in_trouble(job))
    (tmp_path / "d.txt.ok").touch()
    until(lambda: job.state().ended)
    assert job.state().status == "done"


def test_resumed_while_the_run_before_is_leaving(tmp_path):
    job = new_job(tmp_path / "made.zarr", keep_job=True)
    job.events().write("started", pid=os.getpid())
    job.events().write("cancelled", message="cancelled", exit_code=3)
    with ExitStack() as leaving:
        leaving.enter_context(job.lock())
        threading.Timer(0.3, leaving.pop_all().close).start()
        assert run_job(job) == 0


def test_cancelled_while_it_waited_never_starts(tmp_path):
    job = new_job(tmp_path / "d.txt")
    job.cancel()
    assert run_job(job) == 3
    assert not (tmp_path / "d.txt").exists()
    assert run_job(job) == 0


def test_serve_runs_folder_after_folder_in_one_process(start, finish, until, tmp_path):
    worker = start("run", "--serve")
    jobs = [
        new_job(tmp_path / f"{name}.txt", trouble)
        for name, trouble in (("a", "none"), ("b", "bug"), ("c", "none"))
    ]
    for job in [*jobs[:1], JobFolder(tmp_path / "nothing"), *jobs[1:]]:
        worker.stdin.write(f"{job.path}\n")
    worker.stdin.flush()
    until(lambda: all(job.state().ended for job in jobs))
    assert [job.state().status for job in jobs] == ["done", "failed", "done"]
    assert {summary_of(jobs[0])["pid"], summary_of(jobs[2])["pid"]} == {worker.pid}
    code, out, err = finish(worker)  # the end of its input
    assert (code, out) == (0, "")
    assert "nothing" in err


def test_a_report_runs_in_the_terminals_process_and_leaves_nothing(command, tmp_path):
    code, out, err = command("fake-report", "3", "--json")
    assert (code, json.loads(out)["half"], err) == (0, 1.5, "")
    assert command("fake-report", "3")[1].split()[-2:] == ["half", "1.5"]
    code, _, err = command("fake-report", "0")
    assert code == 2
    assert "number" in err
    assert "greater than 0, got 0" in err
    assert list((tmp_path / "tmp").iterdir()) == []
    code, _, err = command("fake-report", "3", "--bug")
    log = Path(err.split()[-1])
    assert code == 1
    assert "RuntimeError: surprise" in log.read_text()


def test_no_job_folder_is_said_so(tmp_path):
    with pytest.raises(UserError, match="not a job folder"):
        run_job(tmp_path)
    assert list(tmp_path.glob("lock*")) == []
