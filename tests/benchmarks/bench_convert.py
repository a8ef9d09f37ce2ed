"""``convert`` to OME-Zarr with a pyramid, beside ngff-zarr."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import peers
import tifffile
from mirrored import make_volume, mirrored
from section import Section
from watched import Watched, watch

from connectoscope.volumes import open_volume

SHAPE = (64, 2048, 2048)  # 268 megavoxels
CHUNKS, PER_SHARD = (64, 128, 128), (1, 4, 4)  # what `convert` writes
METHOD = "dask_bin_shrink"  # means, as `convert` makes; the default of ngff-zarr, a gaussian, takes many times as long
TURNS = 2


def measure() -> Section:
    """Whole commands in turn."""
    python, script = peers.ngff_zarr_python(), Path(__file__).with_name("peer_ngff_zarr.py")
    rows = [
        ["source", "program", "seconds", "peak memory, MB", "levels", "`convert`: times as fast", "memory"]
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zarr, tiff, out = folder / "source.ome.zarr", folder / "source.tif", folder / "out.ome.zarr"
        make_volume(zarr, SHAPE, chunks=CHUNKS)
        tifffile.imwrite(tiff, mirrored(SHAPE), bigtiff=True, metadata={"axes": "ZYX"})
        for source, title in ((zarr, "OME-Zarr, one level"), (tiff, "TIFF, a page for each plane")):
            sizes = [",".join(map(str, CHUNKS)), ",".join(map(str, PER_SHARD))]
            commands: dict[str, list[object]] = {
                "`convert`": [sys.executable, "-m", "connectoscope", "convert", source, out],
                f"ngff-zarr, `{METHOD}`": [python, script, source, out, METHOD, *sizes],
            }
            if source == tiff:
                commands["`convert`"] += ["--voxel-size", "47.5,4.6,4.6nm"]
            taken: dict[str, list[Watched]] = {key: [] for key in commands}
            levels = {}
            for _ in range(TURNS):
                for key, command in commands.items():
                    taken[key].append(watch(command, env={**os.environ, "XDG_CACHE_HOME": str(folder)}))
                    levels[key] = [level.shape for level in open_volume(out).levels]
                    shutil.rmtree(out)
            own = taken["`convert`"]
            for key, runs in taken.items():
                seconds, peak = _median(runs, "seconds"), _median(runs, "peak_mb")
                beside = ["", ""]
                if runs is not own:
                    beside = [
                        f"{seconds / _median(own, 'seconds'):.1f}",
                        f"{_median(own, 'peak_mb') / peak:.1f} times as much",
                    ]
                rows.append([title, key, f"{seconds:.1f}", f"{peak:.0f}", str(len(levels[key])), *beside])
    return Section(
        "Convert beside ngff-zarr",
        f"{peers.NGFF_ZARR[0]} and `connectoscope convert`, whole commands, {TURNS} in turn, medians; "
        f"{' × '.join(map(str, SHAPE))} voxels uint8 of mirrored sample to OME-Zarr 0.5 with a pyramid of means, chunks of "
        f"{CHUNKS} in shards of {PER_SHARD}, blosc with zstd. Memory is that of all processes of a command. "
        "`convert` halves z only once voxels are cubes, ngff-zarr while a level is larger than a chunk.",
        rows,
    )


def _median(runs: list[Watched], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)
