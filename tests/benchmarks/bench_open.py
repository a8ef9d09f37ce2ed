"""How soon a slice of a very large volume is there."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from mirrored import mirrored
from section import Section, spread

from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.pyramid import pyramid_factors
from connectoscope.volumes.stores import context

SHAPE: Index3 = (20_000, 22_400, 22_400)  # 10 TB of uint8
VIEW = 1024  # side of the part of a slice that is looked at
RUNS = 7
GOAL = 1.0
KINDS = {
    "one level, chunks of 64³": (False, (64, 64, 64), None),
    "one level, chunks of 64 × 128 × 128 in shards of 64 × 512 × 512": (
        False,
        (64, 128, 128),
        (64, 512, 512),
    ),
    "levels, chunks of 64 × 128 × 128 in shards of 64 × 512 × 512": (True, (64, 128, 128), (64, 512, 512)),
}
PROCESS = """
import json, time
started = time.perf_counter()
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
imported = time.perf_counter()
volume = open_volume({path!r})
for level, start, stop in {slices!r}:
    volume.read(Box(start, stop), level)
print(json.dumps([imported - started, time.perf_counter() - imported]))
"""


def view(shape: Index3) -> Box:
    """The middle slice: all of it, or as much of its middle as is looked at."""
    start, stop = [shape[0] // 2], [shape[0] // 2 + 1]
    for n in shape[1:]:
        start.append(max(n - VIEW, 0) // 2)
        stop.append(start[-1] + min(n, VIEW))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def first_slice(path: Path) -> list[tuple[int, Index3, Index3]]:
    """Open, then the middle slice: of the coarsest level, where there are several, and a part of it at the finest."""
    volume = open_volume(path)
    looked = []
    for level in sorted({len(volume.levels) - 1, 0}, reverse=True):
        box = view(volume.levels[level].shape)
        if not volume.read(box, level).any():
            raise RuntimeError(f"level {level} of {path} shows nothing")
        looked.append((level, box.start, box.stop))
    return looked


def make(path: Path, levels: bool, chunks: Index3, shards: Index3 | None) -> None:
    """Metadata of all of it, and those chunks that are looked at."""
    scale = (8.0, 8.0, 8.0)
    factors = pyramid_factors(SHAPE, scale) if levels else ((1, 1, 1),)
    dtype = np.dtype(np.uint8)
    spec = ImageSpec(
        SHAPE, dtype, scale, (0.0, 0.0, 0.0), "nanometer", chunks, factors=factors, shards=shards
    )
    for level, store in enumerate(create_image(path, spec)):
        if level in (0, len(factors) - 1):
            box = view(spec.level_shape(level))
            unit = (shards or chunks)[0]
            top = box.start[0] // unit * unit
            depth = min(unit, spec.level_shape(level)[0] - top)
            image = mirrored((depth, box.shape[1], box.shape[2]))
            store[(slice(top, top + depth), *box.slices[1:])].write(image).result()


def measure() -> Section:
    """In this process with nothing cached of the volume, and as whole processes; files are in the system's page cache."""
    rows = [["volume", "in this process", "fresh process: imports", "open and slice", "all of it", "< 1 s"]]
    for name, (levels, chunks, shards) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.ome.zarr"
            make(path, levels, chunks, shards)
            inside, imports, slices, whole = [], [], [], []
            for turn in range(RUNS + 1):
                context.cache_clear()
                started = time.perf_counter()
                looked = first_slice(path)
                mine = time.perf_counter() - started
                code = PROCESS.format(path=str(path), slices=looked)
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
                )
                process = time.perf_counter() - started
                if turn:
                    inside.append(mine)
                    whole.append(process)
                    imported, sliced = json.loads(done.stdout)
                    imports.append(imported)
                    slices.append(sliced)
        slowest = max(statistics.median(inside), statistics.median(whole))
        held = "holds" if slowest < GOAL else "does not hold"
        rows.append([name, *map(spread, (inside, imports, slices, whole)), held])
    return Section(
        "Opening 10 TB",
        f"`open_volume` of an OME-Zarr of {' × '.join(map(str, SHAPE))} voxels uint8, and its middle slice: {VIEW} × {VIEW} "
        "voxels at the finest level and, where there are levels, all of the coarsest. The volume is virtual: its metadata, "
        f"and the chunks that are looked at. Seconds, median (least–most) of {RUNS}; the goal is for this process and for a "
        "whole fresh one.",
        rows,
    )
