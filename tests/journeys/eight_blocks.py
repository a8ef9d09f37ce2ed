"""Eight blocks of real tissue, for tests of what can happen to a run on its way."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from connectoscope.jobs import run as supervising
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box

BLOCKS = 8
MODEL = "membrane-vnc"
# Runs a module, as "python -m" does, after something has been done to the process.
TRICKED = (
    "import runpy, sys; del sys.argv[0]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def make_volume(path, blocks=BLOCKS):
    """8 planes a block of a network that sees single planes, each block a chunk."""
    sample = open_volume("sample:vnc")
    image = np.asarray(sample.read(Box.of(sample.shape)))[:, :128, :128]
    image = np.tile(image, (8 * blocks // len(image), 1, 1))
    spec = ImageSpec(image.shape, image.dtype, sample.levels[0].scale, (0, 0, 0), sample.unit, (8, 128, 128))
    create_image(path, spec)[0].write(image).result()
    return path


def segment(volume, name, *options, wait=True, **process):
    """``connectoscope segment`` of the volume; (code, what it said, result), or the running process and the result.

    Args:
        name: Of the result, beside the volume; or a path.
        process: Further arguments of Popen.
    """
    out = name if isinstance(name, Path) else volume.parent / f"{name}.ome.zarr"
    words = ["segment", volume, out, "--model", MODEL, "--threads", 1, "--keep-job", *options]
    started = command(*words, **process)
    if not wait:
        return started, out
    told = started.communicate(timeout=170)[0]
    return started.returncode, told, out


def command(*words, **process):
    """The running ``connectoscope WORDS``."""
    line = [sys.executable, "-m", "connectoscope", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **process)


def supervised(monkeypatch, source, out, trick="", report=None, **options):
    """The same in a supervisor of this process; (code, job).

    Args:
        trick: Python that is run in the engine's process before the engine.
        report: Called with each event.
        options: Of ``run_job``.
    """
    monkeypatch.setattr(supervising, "_PYTHON", (sys.executable, "-P", "-c", f"{trick}\n{TRICKED}"))
    values = {"source": str(source), "destination": str(out), "model": MODEL}
    job = JobFolder.create(JobRequest.make("segment", values, threads=1, keep_job=True))
    return supervising.run_job(job, report, **options), job


def ledger(out):
    """Checksums of the finished blocks of a result, by id."""
    return {entry["id"]: entry["crc32"] for entry in entries(out)}


def entries(out):
    """Lines of the ledger."""
    path = JobFolder(f"{out}.job").ledger_path
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def done(out):
    """Finished blocks of the network."""
    return sum(id.startswith("probabilities/") and "level" not in id for id in ledger(out))


def same(a, b):
    """Whether two results hold the same files with the same bytes."""
    files = [sorted(p.relative_to(r) for p in r.rglob("*") if p.is_file()) for r in (a, b)]
    return files[0] == files[1] and not any(filecmp.cmpfiles(a, b, map(str, files[0]), shallow=False)[1:])
