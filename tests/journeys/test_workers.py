"""The same job in one process, in workers of this machine, and behind a scheduler one of whose workers is killed."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from connectoscope.blockwise import crew
from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
BLOCKS = 8


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Real tissue, 64 planes: eight blocks of a network that sees single planes."""
    sample = open_volume("sample:vnc")
    image = np.tile(np.asarray(sample.read(Box.of(sample.shape)))[:, :128, :128], (16, 1, 1))
    path = tmp_path_factory.mktemp("workers") / "volume.ome.zarr"
    spec = ImageSpec(image.shape, image.dtype, sample.levels[0].scale, (0, 0, 0), sample.unit, (8, 128, 128))
    create_image(path, spec)[0].write(image).result()
    return path


def segment(volume, name, *options, wait=True):
    """``connectoscope segment`` of the volume; the finished process, or the running one and the result."""
    out = volume.parent / f"{name}.ome.zarr"
    words = ["segment", volume, out, "--model", "membrane-vnc", "--threads", 1, "--keep-job", *options]
    line = [sys.executable, "-m", "connectoscope", *map(str, words)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not wait:
        return process, out
    told = process.communicate(timeout=170)[0]
    return process.returncode, told, out


@pytest.fixture(scope="module")
def alone(volume):
    """The result of one process."""
    code, told, out = segment(volume, "alone")
    assert code == 0, told
    assert ledger(out).keys() >= {f"probabilities/{z}_0_0" for z in range(BLOCKS)}
    return out


def ledger(out):
    path = JobFolder(f"{out}.job").ledger_path
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["id"]: entry["crc32"] for entry in map(json.loads, lines)}


def same(a, b):
    """Whether two results hold the same files with the same bytes."""
    files = [sorted(p.relative_to(r) for p in r.rglob("*") if p.is_file()) for r in (a, b)]
    return files[0] == files[1] and not filecmp.cmpfiles(a, b, map(str, files[0]), shallow=False)[1:][0]


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
