"""Engine and supervisor are killed (SIGKILL) at drawn moments and the command is given again: the bytes are the same.

``CONNECTOSCOPE_KILLS=20`` kills so often (default 2), over so many more blocks; ``-s`` shows who was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from eight_blocks import BLOCKS, command, ledger, make_volume, same, segment

from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box

KILLS = int(os.environ.get("CONNECTOSCOPE_KILLS", "2"))
VICTIMS = ("engine", "supervisor", "both")

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX"),
    pytest.mark.timeout(120 + 60 * KILLS),
]


def killed_again_and_again(start, count, total, seed):
    """Start a job until it ends; kill it when ``count()`` reaches drawn shares of ``total``. Who was killed, each time.

    Args:
        start: Starts or resumes the job; its process.
    """
    rng = np.random.default_rng(seed)
    killed = []
    for number in range(KILLS):
        at = total * (number + rng.random()) / (KILLS + 1)
        victim = VICTIMS[int(rng.integers(len(VICTIMS)))]
        process = start()
        while process.poll() is None and count() < at:
            time.sleep(0.002)
        try:
            process.wait(timeout=rng.uniform(0, 0.1))  # anywhere in the block at hand
        except subprocess.TimeoutExpired:
            engines = psutil.Process(process.pid).children()
            if victim != "engine" or not engines:
                process.kill()
            for engine in engines if victim != "supervisor" else []:
                engine.kill()
            killed.append(victim)
        told = process.communicate(timeout=60)[0]
        assert process.returncode in (0, 4, -signal.SIGKILL), told
        assert "Traceback" not in told
    process = start()
    told = process.communicate(timeout=300)[0]
    assert process.returncode == 0, told
    return killed


def test_segment(tmp_path):
    made = ("--target", "membranes")  # labels, too
    volume = make_volume(tmp_path / "volume.ome.zarr", blocks=max(BLOCKS, KILLS))
    code, told, whole = segment(volume, "whole", *made)
    assert code == 0, told
    total = len(ledger(whole))
    out = tmp_path / "killed.ome.zarr"
    killed = killed_again_and_again(
        lambda: segment(volume, "killed", *made, wait=False)[0], lambda: len(ledger(out)), total, seed=8
    )
    sys.stdout.write(f"{len(killed)} kills ({killed}) over {total} lines of the ledger\n")
    assert len(killed) >= KILLS / 2  # a quick machine may be done before it is killed
    assert ledger(out) == ledger(whole)
    assert same(whole, out)


@pytest.mark.parametrize("ending", ["ome.zarr", "n5"])
def test_convert(tmp_path, ending):
    sample = open_volume("sample:vnc")
    image = np.pad(
        np.asarray(sample.read(Box.of(sample.shape))), ((0, 60), (0, 588), (0, 588)), mode="symmetric"
    )
    spec = ImageSpec(image.shape, image.dtype, sample.levels[0].scale, (0, 0, 0), sample.unit, (64, 128, 128))
    volume = tmp_path / "volume.ome.zarr"
    create_image(volume, spec)[0].write(image).result()

    def start(name):
        words = ["--version", "0.4"] if ending == "ome.zarr" else []  # not in shards: more storage units
        return command("convert", volume, tmp_path / f"{name}.{ending}", "--keep-job", *words)

    def units(name):
        return sum(len(files) for _, _, files in os.walk(tmp_path / f"{name}.{ending}"))

    process = start("whole")
    told = process.communicate(timeout=100)[0]
    assert process.returncode == 0, told
    total = units("whole")
    killed = killed_again_and_again(lambda: start("killed"), lambda: units("killed"), total, seed=9)
    sys.stdout.write(f"{len(killed)} kills ({killed}) over {total} files\n")
    assert len(killed) >= KILLS / 2  # as above
    assert same(tmp_path / f"whole.{ending}", tmp_path / f"killed.{ending}")
    shutil.rmtree(tmp_path)
