"""Window, engine and supervisor are killed in the middle of one real job: nothing is lost, the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.jobs.run import start_detached
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")

# A person's window: opens the volume, asks for its synapses, runs, and stays.
WINDOW = """
import sys
from connectoscope_app.start import make_application, make_window
application = make_application()
window = make_window(application)
source, destination = sys.argv[1:]
from qtpy.QtCore import QTimer
steps = [
    lambda: window.open_volume(source) or True,
    lambda: len(window.viewer.layers) == 1,
    lambda: window.commands.trigger(window.commands.find("Segment", "Synapses")) or True,
    lambda: window.task_panel.form.set_values({"destination": destination, "model": "synapse-vnc-bb"}) or True,
    lambda: window.task_panel.run() or True,
]
def tick():
    if steps and steps[0]():
        steps.pop(0)
timer = QTimer(); timer.timeout.connect(tick); timer.start(100)
application.exec()
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A column of real tissue, 1152 x 64 x 64: six tiles of a narrow network."""
    sample = open_volume("sample:vnc")
    image = sample.read(Box.of(sample.shape))[:, :64, :64]
    image = np.pad(image, ((0, 1152 - len(image)), (0, 0), (0, 0)), mode="symmetric")
    scale = sample.levels[0].scale
    path = tmp_path / "volume.ome.zarr"
    create_image(
        path, ImageSpec(image.shape, image.dtype, scale, (0.0, 0.0, 0.0), sample.unit, (64, 64, 64))
    )[0].write(image).result()
    return path


def wait(condition: Callable[[], bool], what: str, seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.02)


def blocks(job: JobFolder) -> int:
    """Finished tiles of the network, by the ledger."""
    if not job.ledger_path.exists():
        return 0
    lines = job.ledger_path.read_text().splitlines()
    return sum('"probabilities/' in line and "level" not in line for line in lines)


def processes(job: JobFolder) -> tuple[psutil.Process, psutil.Process]:
    """The supervisor and the engine that work on a job."""
    holder = job.holder()
    assert holder is not None
    supervisor = psutil.Process(holder.pid)
    wait(lambda: bool(supervisor.children()), "engine")
    return supervisor, supervisor.children()[0]


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def resume(job: JobFolder) -> None:
    start_detached(job.path)
    wait(lambda: job.state().status == "running" and job.holder() is not None, "resumed job")


@pytest.mark.timeout(600)
def test_killed_three_ways_and_resumed_equals_uninterrupted(
    tmp_path: Path, volume: Path, qapp: object
) -> None:
    environment = {
        **os.environ,
        "CONNECTOSCOPE_CONFIG": str(tmp_path / "config"),
        "NAPARI_CONFIG": str(tmp_path / "napari.yaml"),
    }
    destination = tmp_path / "killed.ome.zarr"
    window = subprocess.Popen([sys.executable, "-c", WINDOW, str(volume), str(destination)], env=environment)
    job = JobFolder(f"{destination}.job")
    try:
        wait(lambda: blocks(job) >= 1, "first block")
    finally:
        window.send_signal(signal.SIGKILL)
        window.wait()
    assert job.state().status == "running"  # the job does not mind the window's end
    done = blocks(job)

    _, engine = processes(job)
    engine.kill()
    wait(lambda: job.state().ended, "end after the engine was killed")
    state = job.state()
    assert (state.status, state.exit_code) == ("paused", 4)
    assert "resume" in state.message.lower() or "kept" in state.message.lower()
    assert blocks(job) >= done

    resume(job)
    done = blocks(job)
    wait(lambda: blocks(job) > done or job.state().ended, "another block")
    supervisor, engine = processes(job)
    supervisor.kill()
    wait(
        lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE,
        "end of the orphaned engine",
    )
    wait(lambda: job.holder() is None, "stale lock")
    assert job.state().status == "paused"

    resume(job)
    wait(lambda: job.state().ended, "end")
    assert job.state().status == "done", job.state().message

    whole = tmp_path / "whole.ome.zarr"
    values = json.loads(job.request_path.read_text())["parameters"] | {"destination": str(whole)}
    reference = JobFolder.create(JobRequest.make("segment", values, background=True))
    start_detached(reference.path)
    wait(lambda: reference.state().ended, "end of the uninterrupted run")
    killed, expected = tree(destination), tree(whole)
    assert killed.keys() == expected.keys()
    assert [name for name in expected if killed[name] != expected[name]] == []
    assert not [name for name in killed if "__lock" in name]
