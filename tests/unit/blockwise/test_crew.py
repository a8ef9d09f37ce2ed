"""Blocks handed to workers: how many at a time, and what becomes of them when the run or the scheduler ends."""

from __future__ import annotations

import threading
import time

import pytest

from connectoscope.blockwise import crew as crew_module
from connectoscope.blockwise.crew import AHEAD, Crew
from connectoscope.errors import Stopped

distributed = pytest.importorskip("distributed")

begun: list[str] = []
ended: list[str] = []
go_on = threading.Event()


class Over(Exception):
    """Ends a run."""


def slow(id):
    begun.append(id)
    time.sleep(1.5)
    ended.append(id)
    return 0, {}


def patient(id):
    begun.append(id)
    go_on.wait(30)
    return 0, {}


def failing(id):
    raise FileNotFoundError(f"no chunk {id}")


@pytest.fixture
def cluster():
    """A scheduler and a worker of one thread, which outlive each run."""
    begun.clear(), ended.clear(), go_on.clear()
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as started:
        yield started
        go_on.set()


@pytest.fixture
def crew(cluster):
    with Crew(cluster.scheduler_address, 1) as made:
        yield made


def when(happened):
    """A check that ends the run once that has happened."""

    def check():
        if happened():
            raise Over

    return check


def test_no_more_blocks_are_handed_out_than_workers_need(crew, monkeypatch):
    handed, looks, submit = [], iter(range(4)), crew.client.submit
    monkeypatch.setattr(crew.client, "submit", lambda *a, **k: handed.append(a) or submit(*a, **k))
    monkeypatch.setattr(crew_module, "POLL", 0.1)
    monkeypatch.setattr(crew_module, "FAREWELL", 0)
    with pytest.raises(Over):
        list(crew.each(patient, [str(i) for i in range(50)], when(lambda: next(looks, None) is None)))
    assert len(handed) == AHEAD


def test_all_blocks_are_done_once(crew):
    ids = [str(i) for i in range(3 * AHEAD)]
    go_on.set()
    assert sorted(id for id, _ in crew.each(patient, ids, lambda: None)) == ids
    assert sorted(begun) == ids


def test_a_run_that_ends_waits_for_the_blocks_under_way(crew):
    with pytest.raises(Over):
        list(crew.each(slow, ["a", "b", "c"], when(lambda: begun)))
    left = list(ended)
    time.sleep(2)
    assert begun == ended == left, "a block went on, or began, when the run had ended"


def test_it_does_not_wait_for_ever(crew, monkeypatch):
    monkeypatch.setattr(crew_module, "FAREWELL", 0.6)
    with pytest.raises(Over):
        list(crew.each(patient, ["a"], when(lambda: begun)))


def test_a_scheduler_that_is_gone_stops_the_run(cluster, monkeypatch):
    monkeypatch.setattr(crew_module, "PATIENCE", 1)
    with Crew(cluster.scheduler_address, 1) as crew:

        def check():
            if begun:
                go_on.set()
                cluster.close()

        with pytest.raises(Stopped, match="the scheduler is gone; start one, then resume"):
            list(crew.each(patient, ["a", "b"], check))


def test_what_the_work_raises_is_its_own(crew):
    with pytest.raises(FileNotFoundError, match="no chunk a"):
        list(crew.each(failing, ["a"], lambda: None))
