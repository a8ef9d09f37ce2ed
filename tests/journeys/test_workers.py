"""The same job in one process, in workers of this machine, and behind a scheduler one of whose workers is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from eight_blocks import BLOCKS, ledger, make_volume, same, segment

from connectoscope.blockwise import crew
from connectoscope.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    return make_volume(tmp_path_factory.mktemp("workers") / "volume.ome.zarr")


@pytest.fixture(scope="module")
def alone(volume):
    """The result of one process."""
    code, told, out = segment(volume, "alone")
    assert code == 0, told
    assert ledger(out).keys() >= {f"probabilities/{z}_0_0" for z in range(BLOCKS)}
    return out


@pytest.mark.timeout(240)
def test_workers_of_this_machine_give_the_same_bytes(volume, alone):
    code, told, out = segment(volume, "two", "--workers", 2)
    assert code == 0, told
    assert same(alone, out)
    assert ledger(out) == ledger(alone)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each a process of its own; (scheduler file, workers)."""
    file = tmp_path / "scheduler.json"
    python = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    log = (tmp_path / "cluster.log").open("w")
    started = [
        subprocess.Popen(
            [*python, "--port", "0", "--no-dashboard", "--scheduler-file", file], stdout=log, stderr=log
        )
    ]
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, "no scheduler"
        time.sleep(0.02)
    python[-1] = "distributed.cli.dask_worker"
    worker = [*python, "--scheduler-file", file, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    started += [subprocess.Popen(worker, stdout=log, stderr=log, cwd=tmp_path) for _ in range(2)]
    yield file, started[1:]
    for process in reversed(started):
        process.kill()
        process.wait()
    log.close()


@pytest.mark.timeout(240)
def test_a_worker_is_killed_and_its_blocks_are_done_again(volume, alone, cluster):
    file, workers = cluster
    process, out = segment(volume, "killed", "--scheduler", file, wait=False)
    end = time.monotonic() + 150
    while not any(id.startswith("probabilities/") for id in ledger(out)):
        assert process.poll() is None, "it ended before a worker was killed"
        assert time.monotonic() < end, "no block was done"
        time.sleep(0.02)
    psutil.Process(workers[0].pid).send_signal(signal.SIGKILL)
    told = process.communicate(timeout=150)[0]
    assert process.returncode == 0, told
    assert same(alone, out)


def test_a_cascade_and_workers_do_not_go_together(volume):
    code, told, out = segment(volume, "refused", "--cascade", "auto", "--workers", 2)
    assert code == 2
    assert "leave out --cascade" in told.splitlines()[-1]
    assert not os.path.lexists(out)


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(crew, "PATIENCE", 0.5)
    with pytest.raises(UserError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        crew.Crew("tcp://127.0.0.1:9", 1)
