"""Neurons: megavoxels a second of each stage."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mirrored import make_volume
from section import Section

from connectoscope.segmentation.neurons.maker import CELL, HALO

MODEL = "neurons-fib"
SHAPE = (192, 192, 192)  # 7 megavoxels, 2 cells along each axis
STAGES = {
    "network": ("probabilities", "alignment"),
    "fragments": ("neurons: fragments",),
    "agglomeration: contacts": ("neurons: contacts",),
    "agglomeration: joining": ("agglomeration",),
    "labels and pyramid": ("neurons: labels",),
}


def measure() -> Section:
    """One run, its stages one after the other, each with its reading and writing."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "volume.ome.zarr", Path(folder) / "result.ome.zarr"
        make_volume(source, SHAPE, "sample:fib", chunks=(64, 64, 64))
        program = Path(__file__).with_name("staged.py")
        command = [sys.executable, str(program), str(source), str(out), MODEL]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    size = math.prod(SHAPE) / 1e6
    spent = {name: sum(told["seconds"].get(p, 0.0) for p in phases) for name, phases in STAGES.items()}
    whole = sum(spent.values())
    rows = [["stage", "seconds", "megavoxels/s", "share"]]
    stitching = told["seconds"]["stitching"]
    for name, seconds in [
        *spent.items(),
        ("all", whole),
        ("stitching across cells, within fragments and contacts", stitching),
    ]:
        rows.append(
            [name, f"{seconds:.2f}", f"{size / max(seconds, 1e-9):.2f}", f"{100 * seconds / whole:.1f} %"]
        )
    return Section(
        "Neurons",
        f"`segment --target neurons` with {MODEL} on {' × '.join(map(str, SHAPE))} voxels of mirrored sample:fib "
        f"({size:.0f} megavoxels, {told['objects']['neurons']} neurons), {os.cpu_count()} cores; importing and loading "
        f"apart. Cells of {CELL} voxels a side are made with {HALO} voxels around them, which is part of the fragments' "
        "time.",
        rows,
    )
