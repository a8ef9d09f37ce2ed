"""Requests, folders, events and locks, without running anything."""

import json
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from connectoscope.errors import UserError
from connectoscope.jobs.events import EventWriter, last_event, read_events
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.limits import cores, free_memory
from connectoscope.jobs.lock import Holder, lock_holder
from connectoscope.jobs.memory import is_out_of_memory, oom_kills, peak_memory_mb
from connectoscope.jobs.request import JobRequest

ANOTHER_MACHINE = (
    f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"  # of our name: booted otherwise
)


def fake(destination: object = "d.txt", **options) -> JobRequest:
    values = {"source": "x", "destination": str(destination), "blocks": options.pop("blocks", 4)}
    return JobRequest.make("fake", values, **options)


def test_request_survives_the_file_and_fixes_paths(tmp_path):
    (tmp_path / "x").touch()
    request = fake(device="cpu")
    assert request.parameters["source"] == str(tmp_path / "x")
    assert request.destination == tmp_path / "d.txt"
    path = tmp_path / "request.json"
    path.write_text(request.to_json())
    assert JobRequest.load(path) == request
    stored = json.loads(path.read_text())
    assert stored["schema"] == 1
    assert {"python", "numpy", "torch", "tensorstore", "connectoscope"} == stored["software"].keys()
    told = request.provenance()
    assert "created" not in told
    assert told["parameters"].keys() == request.parameters.keys() - {"destination"}  # a result may be moved


@pytest.mark.parametrize(
    ("source", "stored"),
    [
        ("https://a.org/b.zarr", "https://a.org/b.zarr"),
        ("sample:vnc", "sample:vnc"),
        ("missing.tif", "missing.tif"),
        ("x::/raw", "{cwd}/x::/raw"),
    ],
)
def test_inputs_that_are_no_local_files_stay_as_they_are(tmp_path, source, stored):
    (tmp_path / "x").touch()
    request = JobRequest.make("fake", {"source": source, "destination": "d"})
    assert request.parameters["source"] == stored.format(cwd=tmp_path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"source": "x"}, "destination is missing"),
        (
            {"source": "x", "destination": "d", "blocks": 10},
            "--blocks: input should be less than or equal to 9, got 10",
        ),
        ({"source": "x", "destination": "d", "colour": 1}, "there is no parameter colour"),
        ({"source": "x", "destination": "s3://b/d"}, "is a URL"),
        ({"source": "x", "destination": "sample:vnc"}, "is a sample"),
        ({"source": "caf\udce9", "destination": "d"}, r"--source: the name caf\? is not UTF-8"),
    ],
)
def test_wrong_parameters_are_named_in_one_line(values, text):
    with pytest.raises(UserError, match=text) as caught:
        JobRequest.make("fake", values)
    assert "\n" not in str(caught.value)


def test_damaged_or_newer_request_is_refused(tmp_path):
    path = tmp_path / "request.json"
    for text in ("{", '{"schema": 2, "task": "fake"}'):
        path.write_text(text)
        with pytest.raises(UserError, match="damaged or of another version"):
            JobRequest.load(path)


def test_folder_is_found_again_refused_or_replaced(tmp_path):
    job = JobFolder.create(fake())
    assert job.path == tmp_path / "d.txt.job"
    assert JobFolder.create(fake(keep_job=True)).path == job.path
    JobFolder.create(fake(blocks=2))  # nothing was done yet, so nothing is lost
    assert job.request.parameters["blocks"] == 2
    job.ledger_path.write_text("0\n")
    with pytest.raises(UserError, match=r"blocks was 2, now 3.*--overwrite"):
        JobFolder.create(fake(blocks=3))
    with pytest.raises(UserError, match="device was auto, now cpu"):
        JobFolder.create(fake(blocks=2, device="cpu"))
    (tmp_path / "x").touch()  # of a source that is not there nothing is made
    JobFolder.create(fake(blocks=3, overwrite=True))
    assert not job.ledger_path.exists()


def test_places_where_no_job_can_be(tmp_path, monkeypatch):
    (tmp_path / "d.txt.job").mkdir()
    JobFolder.create(fake())  # an empty folder is nobody's
    (tmp_path / "e.job").mkdir()
    (tmp_path / "e.job" / "thesis.txt").touch()
    (tmp_path / "f.job").touch()
    for name in ("e", "f"):
        with pytest.raises(UserError, match="is not a job folder"):
            JobFolder.create(fake(name))
    with pytest.raises(UserError, match="does not exist"):
        JobFolder.create(fake("nowhere/d.txt"))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot write in .* \(Permission denied\)"):
        JobFolder.create(fake("g"))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_job_without_destination_lives_in_a_temporary_folder(tmp_path):
    job = JobFolder.create(JobRequest.make("fake-report", {"number": 1}))
    assert job.path.parent == tmp_path / "tmp"
    assert job.state().status == "queued"


def test_events_are_read_in_whole_lines_by_offset(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_events(path) == ([], 0)
    writer = EventWriter(path)
    writer.write("metric", values={"loss": np.float32("nan"), "steps": np.arange(2)}, where=tmp_path)
    events, offset = read_events(path)
    assert events[0]["values"] == {"loss": None, "steps": [0, 1]}
    assert events[0]["where"] == str(tmp_path)
    with path.open("a") as file:
        file.write('{"v":1,"type":"log","mess')
    assert read_events(path, offset) == ([], offset)  # it is still being written …
    EventWriter(path).write("log", message="µ")  # … no, its writer was killed
    events, end = read_events(path, offset)
    assert [event["message"] for event in events] == ["µ"]
    assert end == path.stat().st_size


def test_the_last_event_is_found_from_behind(tmp_path):
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    writer.write("started")
    path.write_bytes(path.read_bytes() + b'{"v":1,"type":"metric","x":"' + b"y" * 300_000 + b'"}\n{"v":1,"ty')
    assert last_event(path, lambda e: e["type"] == "started") is not None
    assert last_event(path, lambda e: e["type"] == "finished") is None


@pytest.mark.parametrize(
    ("holder", "age", "alive"),
    [
        (Holder.this_process(), 1e6, True),
        (
            Holder(Holder.this_process().host, os.getpid(), 1.0),
            0,
            False,
        ),  # the number is somebody else's by now
        (Holder("elsewhere", 1, 1.0), 1, True),
        (Holder("elsewhere", 1, 1.0), 300, False),
        (Holder(socket.gethostname() + " pid:[1]", 1, 1.0), 1, True),  # a container of the same name
        (Holder(ANOTHER_MACHINE, 1, 1.0), 1, True),
    ],
)
def test_a_lock_is_held_by_a_living_process(tmp_path, holder, age, alive):
    job = JobFolder.create(fake())
    job.lock_path.write_text(json.dumps({"holder": vars(holder), "engine": None}))
    os.utime(job.lock_path, (time.time() - age,) * 2)
    assert (lock_holder(job.lock_path) is not None) == alive
    if alive:
        with pytest.raises(UserError, match="already running"), job.lock():
            pass
    else:
        with job.lock():
            assert job.holder() == Holder.this_process()
    assert job.lock_path.exists() == alive
    assert len(list(job.path.glob("lock*"))) == int(alive)


@pytest.mark.parametrize("obeyed", [True, False])
def test_a_cancel_is_told_from_an_old_one_by_the_file_servers_clock(tmp_path, obeyed):
    job = JobFolder.create(fake())
    job.events().write("cancelled")
    job.cancel()
    ahead = time.time() + 30
    os.utime(job.cancel_path, (ahead, ahead))
    os.utime(job.events_path, (ahead + (1 if obeyed else -1),) * 2)
    job.forget_old_cancel()
    assert job.cancel_path.exists() == (not obeyed)


def test_a_damaged_lock_is_stale(tmp_path):
    job = JobFolder.create(fake())
    job.lock_path.write_text("{")
    with job.lock():
        pass


def test_out_of_memory_counters(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (groups / "a" / "b").mkdir(parents=True)
    (groups / "memory" / "box").mkdir(parents=True)
    (proc / "vmstat").write_text("nr_free 5\noom_kill 3\n")
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/box\n0::/a/b\n")
    (groups / "a" / "b" / "memory.events").write_text("oom 9\noom_kill 2\n")
    (groups / "memory" / "box" / "memory.oom_control").write_text("under_oom 0\noom_kill 1\n")
    assert sorted(oom_kills(proc, groups).values()) == [1, 2, 3]
    assert oom_kills(tmp_path / "none", groups) == {}


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"0/a/cpu.max": "50000 100000"}, 1),
        ({"0/cpu.max": "150000 100000", "0/a/cpu.max": "max 100000"}, 2),
        ({"cpu/box/cpu.cfs_quota_us": "100000", "cpu/box/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_no_more_cores_than_a_container_is_given(tmp_path, monkeypatch, files, most):
    proc, groups = made_groups(tmp_path, files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert cores(proc, groups) == most


def test_no_more_memory_than_a_container_is_given(tmp_path):
    files = {"0/a/memory.max": "5000", "0/a/memory.current": "4000", "0/a/memory.stat": "inactive_file 500"}
    assert free_memory(*made_groups(tmp_path, files)) == 1500
    older = {"memory/box/memory.limit_in_bytes": "70", "memory/box/memory.usage_in_bytes": "60"}
    assert free_memory(*made_groups(tmp_path / "older", older)) == 10
    assert free_memory(*made_groups(tmp_path / "none", {})) > 1500


def made_groups(folder, files):
    """A process in the group ``a`` of version 2 and in ``box`` of version 1."""
    proc, groups = folder / "proc", folder / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/box\n0::/a\n")
    for name, text in files.items():
        path = groups / name.removeprefix("0/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return proc, groups


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shape"))
    assert peak_memory_mb() > 1


def test_masks_and_plans_are_found_from_elsewhere(tmp_path):
    for name in ("m.ome.zarr", "p.cascade.json", "off"):
        (tmp_path / name).touch()
    values = {"source": "x", "destination": "c.csv", "within": "m.ome.zarr"}
    assert JobRequest.make("detect", values).parameters["within"] == str(tmp_path / "m.ome.zarr")
    for given, stored in (
        ("p.cascade.json", str(tmp_path / "p.cascade.json")),
        ("off", "off"),
        ("auto", "auto"),
    ):
        values = {"source": "x", "destination": "c.ome.zarr", "cascade": given}
        assert JobRequest.make("segment", values).parameters["cascade"] == stored
