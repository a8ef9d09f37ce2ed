"""``Volume.read`` beside TensorStore itself, blocks with halo."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorstore as ts
from mirrored import make_volume
from section import Section, spread

from connectoscope.blockwise.plan import Lattice
from connectoscope.networks.predictor import choose_tile
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.volumes.stores import CACHE_BYTES, context
from connectoscope.zoo import find_model

SHAPE = (64, 2048, 4096)  # 537 megavoxels: more than the cache of decoded chunks holds
STORED: dict[str, tuple[Index3, Index3 | None]] = {
    "chunks of 16 × 128 × 128": ((16, 128, 128), None),
    "chunks of 64 × 128 × 128 in shards of 64 × 512 × 512, as `convert` writes": (
        (64, 128, 128),
        (64, 512, 512),
    ),
}
ROUNDS = 5
GOAL = 0.85

Read = Callable[[Box], np.ndarray]


def ours(path: Path) -> Read:
    context.cache_clear()  # each round begins with an empty cache
    return open_volume(path).read


def raw(path: Path, cache: int) -> Read:
    spec = {"driver": "zarr3", "kvstore": f"file://{path}/0/"}
    store = ts.open(spec, context=ts.Context({"cache_pool": {"total_bytes_limit": cache}})).result()
    return lambda box: np.asarray(store[box.slices].read().result())


def seconds(read: Read, boxes: list[Box]) -> float:
    started = time.perf_counter()
    for box in boxes:
        read(box)
    return time.perf_counter() - started


def measure() -> Section:
    """In turn, the volume in the page cache of the system: what is compared is the work of reading, not a disk."""
    bundle = find_model("synapse-vnc")
    halo = bundle.halo(False)
    tile = choose_tile(SHAPE, halo, bundle.card.stride, bundle.tile_voxels())
    whole = Box.of(SHAPE)
    boxes = [
        block.read.intersection(whole) for block in Lattice(tile, halo, bundle.card.stride).blocks(whole)
    ]
    size = sum(box.size for box in boxes) / 1e6
    rows = [["stored in", "reader", "megavoxels/s", "`Volume.read` of it", "≥ 85 %"]]
    for name, (chunks, shards) in STORED.items():
        taken: dict[str, list[float]] = {"ours": [], "raw": [], "cached": []}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.ome.zarr"
            make_volume(path, SHAPE, chunks=chunks, shards=shards)
            for turn in range(ROUNDS + 1):
                readers = {"ours": ours(path), "raw": raw(path, 0), "cached": raw(path, CACHE_BYTES)}
                for key, read in readers.items():
                    second = seconds(read, boxes)
                    if turn:
                        taken[key].append(size / second)
        own = statistics.median(taken["ours"])
        rows.append([name, "`Volume.read`", spread(taken["ours"]), "", ""])
        for key, title in (("raw", "TensorStore"), ("cached", "TensorStore with as large a cache")):
            share = own / statistics.median(taken[key])
            held = "holds" if share >= GOAL else "does not hold"
            rows.append([name, title, spread(taken[key]), f"{100 * share:.0f} %", held])
    return Section(
        "Reading blocks with halo",
        f"The {len(boxes)} tiles of synapse-vnc ({' × '.join(map(str, tile))} with halo {halo}) on "
        f"{' × '.join(map(str, SHAPE))} voxels, one after the other in the order of a run, {ROUNDS} rounds in turn "
        "after one that is not counted; median (least–most).",
        rows,
    )
