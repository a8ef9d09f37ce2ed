"""What it costs to ask which model suits a volume."""

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
from mirrored import mirrored
from section import Section, spread

from connectoscope.adaptation.mmd import compare, mmd2
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Index3
from connectoscope.volumes.ome_zarr_write import zarr_file
from connectoscope.zoo import find_model

SHAPE: Index3 = (64, 4096, 4096)  # 1 gigavoxel
CHUNKS: Index3 = (16, 128, 128)
REAL: Index3 = (64, 512, 512)  # what lies on disk
VECTORS, ROUNDS = 1024, 7


def make_linked(path: Path) -> int:
    """A volume whose chunks are links to those of its first corner, which is sample; the bytes that it seems to have."""
    sample = open_volume("sample:vnc")
    spec = ImageSpec(SHAPE, np.dtype(np.uint8), sample.levels[0].scale, (0.0, 0.0, 0.0), sample.unit, CHUNKS)
    create_image(path, spec)[0][tuple(slice(n) for n in REAL)].write(mirrored(REAL)).result()
    own = [n // c for n, c in zip(REAL, CHUNKS, strict=True)]
    size = 0
    for place in np.ndindex(*(n // c for n, c in zip(SHAPE, CHUNKS, strict=True))):
        file = zarr_file(path, spec, 0, (), place)  # type: ignore[arg-type]
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            z, y, x = (i % n for i, n in zip(place, own, strict=True))
            os.link(zarr_file(path, spec, 0, (), (z, y, x)), file)
        size += file.stat().st_size
    return size


def measure() -> Section:
    """The distance of two sets of vectors, and the whole ranking."""
    signature = find_model("synapse-vnc").load_signature()["common"].astype(np.float32)
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((2, VECTORS, signature.shape[1]), np.float32)
    alone, judged = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        mmd2(source, target)
        between = time.perf_counter()
        compare(source, target)
        alone.append(between - started)
        judged.append(time.perf_counter() - between)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.ome.zarr"
        stored = make_linked(path)
        command = [
            sys.executable,
            str(Path(__file__).with_name("counted.py")),
            str(path),
            f"{folder}/rank.job",
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    size = math.prod(SHAPE)
    return Section(
        "Which model suits a volume",
        f"MMD² of {VECTORS} and {VECTORS} vectors of {signature.shape[1]} features, median (least–most) of {ROUNDS}; "
        f"`adapt rank` of all models ({told['models']} can be judged) on {size / 1e9:.1f} gigavoxels, "
        f"{os.cpu_count()} cores. The volume is virtual: its chunks are links to {math.prod(REAL) / 1e6:.0f} megavoxels of "
        "sample. Bytes that were read have whole chunks in them, more than once where the cache had lost them, and the "
        "models.",
        [
            ["what", "figure", "goal"],
            ["MMD², seconds", spread(alone), _goal(np.median(alone) < 1, "< 1")],
            ["with p-value and interval, seconds", spread(judged), _goal(np.median(judged) < 1, "< 1")],
            ["`adapt rank`, seconds", f"{told['seconds']:.1f}", _goal(told["seconds"] < 60, "< 60")],
            [
                "voxels asked for, of the volume",
                f"{100 * told['voxels'] / size:.2f} %",
                _goal(told["voxels"] < size / 100, "< 1 %"),
            ],
            ["bytes read, of those stored", f"{100 * told['bytes'] / stored:.2f} %", ""],
        ],
    )


def _goal(holds: object, text: str) -> str:
    return f"{text}: {'holds' if holds else 'does not hold'}"
