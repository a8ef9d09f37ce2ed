"""The engine's rate beside the plain forward pass of the same network on the same tile."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from mirrored import make_volume
from section import Section

from connectoscope.jobs.memory import keep_freed_memory
from connectoscope.networks.precision import best_precision
from connectoscope.zoo import find_model

SHAPE = (48, 1152, 1152)  # 64 megavoxels


def measure() -> Section:
    """``connectoscope segment`` on 64 megavoxels, with the rate that it reports itself (start-up apart)."""
    bundle = find_model("synapse-vnc")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "volume.ome.zarr"
        make_volume(source, SHAPE)
        line = [
            sys.executable,
            "-m",
            "connectoscope",
            "segment",
            source,
            Path(folder) / "result.ome.zarr",
            "--json",
            "--keep-job",
        ]
        started = time.perf_counter()
        done = subprocess.run([str(w) for w in line], check=True, stdout=subprocess.PIPE, text=True)
        whole = time.perf_counter() - started
        summary = json.loads(done.stdout)
        plan = json.loads((Path(folder) / "result.ome.zarr.job" / "plan.json").read_text())
    keep_freed_memory()  # as the engine's process does
    tile = tuple(plan["tile"])
    predictor = bundle.predictor(tile=tile, precision=plan["precision"], threads=plan["threads"])
    image = np.random.default_rng(0).random(tile, np.float32) - 0.5
    predictor(image)
    runs = []
    for _ in range(5):
        started = time.perf_counter()
        predictor(image)
        runs.append(time.perf_counter() - started)
    plain = math.prod(tile) / 1e6 / sorted(runs)[len(runs) // 2]
    cores = math.prod(-(-n // c) for n, c in zip(SHAPE, predictor.core, strict=True))
    computed = cores * math.prod(tile) / math.prod(SHAPE)
    rate = summary["megavoxels_per_second"]
    return Section(
        "Segment beside a plain forward pass",
        f"`connectoscope segment` with synapse-vnc on {math.prod(SHAPE) / 1e6:.0f} megavoxels of mirrored sample, "
        f"{plan['precision']}, {plan['threads']} threads of {os.cpu_count()} cores, tile {tile}, "
        f"halo {bundle.card.halo.practical}; "
        "the engine's rate has reading, both targets' labels, tables and pyramids in it. "
        f"Best precision here: {best_precision('cpu')}.",
        [
            ["what", "figure"],
            ["plain forward pass, megavoxels/s of tile", f"{plain:.2f}"],
            ["engine, megavoxels/s of volume", f"{rate:.2f}"],
            ["voxels computed per voxel of volume (halo and cover)", f"{computed:.2f}"],
            ["engine, megavoxels/s computed", f"{rate * computed:.2f}"],
            ["of the plain pass", f"{100 * rate * computed / plain:.0f} %"],
            ["whole command, seconds", f"{whole:.1f}"],
            ["peak memory, MB", f"{summary['peak_memory_mb']:.0f}"],
        ],
    )
