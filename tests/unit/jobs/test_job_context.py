"""What a task sees, and what it tells."""

import pytest
import torch

from connectoscope.errors import Cancelled, UserError
from connectoscope.jobs import context as contexts
from connectoscope.jobs.context import Context, threads_of
from connectoscope.jobs.request import JobRequest


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(contexts, "time", clock)
    return clock


def told(context: Context, kind: str) -> list[dict]:
    return [event for event in context.job.read_events()[0] if event["type"] == kind]


def test_at_most_five_progress_events_a_second_and_the_last_one_counts(tmp_path, clock):
    context = Context.local(tmp_path / "job")
    for done in range(1, 101):
        context.progress(done, 100, "network")
        clock.now += 0.01
    context.flush_progress()
    events = told(context, "progress")
    assert len(events) <= 7
    assert events[-1]["done"] == 100
    assert events[-1]["fraction"] == 1


def test_time_left_is_told_once_it_is_known(tmp_path, clock):
    context = Context.local(tmp_path / "job")
    for done in (50, 51, 52, 53):  # resumed in the middle: what was done before says nothing of the rate
        context.progress(done, 100, "network")
        clock.now += 1.0
    left = [event["seconds_left"] for event in told(context, "progress")]
    assert left == [None, None, 48.0, 47.0]


def test_fraction_runs_over_all_phases(tmp_path, clock):
    context = Context.local(tmp_path / "job")
    context.phases(network=3, labels=1)
    context.progress(1, 2, "network")
    clock.now += 1
    context.progress(1, 2, "labels", megavoxels_per_second=2.0)
    assert [event["fraction"] for event in told(context, "progress")] == [0.375, 0.875]
    assert told(context, "progress")[1]["megavoxels_per_second"] == 2.0


def test_what_is_told_arrives(tmp_path):
    heard = []
    context = Context.local(tmp_path / "job", listener=heard.append)
    context.log("hello")
    context.warn("thin ice")
    context.warn("thin ice")
    context.result("image", tmp_path / "a.zarr", "probabilities", channels=["synapses"])
    context.metric("training", 3, {"loss": 0.5})
    context.plot("curve", {"name": [1.0, 0.5]})
    assert [event["type"] for event in heard] == ["log", "warning", "result", "metric", "plot"]
    assert context.job.read_events()[0] == heard
    assert heard[2]["path"] == str(tmp_path / "a.zarr")
    assert context.warnings == ["thin ice"]
    assert context.scratch.is_dir()


def test_cancel_file_stops_the_run(tmp_path):
    context = Context.local(tmp_path / "job")
    context.check_cancelled()
    context.job.cancel()
    with pytest.raises(Cancelled):
        context.check_cancelled()


def test_only_a_run_that_starts_anew_may_overwrite(tmp_path):
    assert Context.local(tmp_path / "job", overwrite=True).overwrite
    (tmp_path / "job" / "ledger").write_text("0\n")
    resumed = Context.local(tmp_path / "job", overwrite=True)
    assert resumed.resumed
    assert not resumed.overwrite


def test_device_and_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert Context.local(tmp_path / "a").device == "cpu"
    assert Context.local(tmp_path / "b", "auto").device == "cpu"
    with pytest.raises(UserError, match=r"no CUDA device.*--device cpu"):
        _ = Context.local(tmp_path / "c", "cuda").device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    told = Context.local(tmp_path / "f", "auto")  # a GPU, and a torch that has no code for it
    assert told.device == "cpu"
    assert "the GPU cannot be used (" in told.warnings[0]
    with pytest.raises(UserError, match=r"no CUDA device.*that can be used"):
        _ = Context.local(tmp_path / "g", "cuda").device

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", full)  # it is there: the run meets the shortage itself
        assert Context.local(tmp_path / "h", "auto").device == "cuda"
    monkeypatch.setattr("connectoscope.jobs.context._gpu_trouble", str)
    assert Context.local(tmp_path / "d", "auto").device == "cuda"
    alone, shared, background = (
        threads_of(JobRequest(task="library", **options))
        for options in ({}, {"workers": 2}, {"background": True})
    )
    assert 1 <= background <= alone
    assert shared == max(1, alone // 2)
    assert Context.local(tmp_path / "e", threads=3).threads == 3
