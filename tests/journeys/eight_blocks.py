"""Eight blocks of real tissue through the command line, for tests of what can happen to a run on its way."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from connectoscope.jobs.folder import JobFolder
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box

BLOCKS = 8


def make_volume(path):
    """64 planes: eight blocks of a network that sees single planes."""
    sample = open_volume("sample:vnc")
    image = np.tile(np.asarray(sample.read(Box.of(sample.shape)))[:, :128, :128], (16, 1, 1))
    spec = ImageSpec(image.shape, image.dtype, sample.levels[0].scale, (0, 0, 0), sample.unit, (8, 128, 128))
    create_image(path, spec)[0].write(image).result()
    return path


def segment(volume, name, *options, wait=True):
    """``connectoscope segment`` of the volume; (code, what it said, result), or the running process and the result.

    Args:
        name: Of the result, beside the volume; or a path.
    """
    out = name if isinstance(name, Path) else volume.parent / f"{name}.ome.zarr"
    words = ["segment", volume, out, "--model", "membrane-vnc", "--threads", 1, "--keep-job", *options]
    line = [sys.executable, "-m", "connectoscope", *map(str, words)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not wait:
        return process, out
    told = process.communicate(timeout=170)[0]
    return process.returncode, told, out


def ledger(out):
    """Checksums of the finished blocks of a result, by id."""
    path = JobFolder(f"{out}.job").ledger_path
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["id"]: entry["crc32"] for entry in map(json.loads, lines)}


def same(a, b):
    """Whether two results hold the same files with the same bytes."""
    files = [sorted(p.relative_to(r) for p in r.rglob("*") if p.is_file()) for r in (a, b)]
    return files[0] == files[1] and not any(filecmp.cmpfiles(a, b, map(str, files[0]), shallow=False)[1:])
