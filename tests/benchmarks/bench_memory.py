"""Peak memory of ``segment``, the more blocks a volume has."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

from mirrored import make_volume
from section import Section
from watched import watch

from connectoscope.volumes.geometry import Index3
from connectoscope.zoo import find_model
from connectoscope.zoo.writing import write_bundle

CORE: Index3 = (8, 320, 320)
HALO: Index3 = (4, 16, 16)  # smaller than the model's own, so that small tiles are not all halo
SIDES = (2, 4, 8)  # blocks along each axis
GOAL = 0.15


def measure() -> Section:
    """The same tile for all, and the same model with its own findings: labels and tables grow with the volume."""
    tile = ",".join(str(c + 2 * h) for c, h in zip(CORE, HALO, strict=True))
    bundle = find_model("synapse-vnc-bb")
    rows = [["blocks", "megavoxels", "objects", "peak memory, MB", "beside the fewest blocks"]]
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card = bundle.card.model_copy(
            update={
                "companion": None,
                "signature": None,
                "halo": bundle.card.halo.model_copy(update={"practical": HALO}),
            }
        )
        model = write_bundle(folder / "model", card, bundle.load_network().state_dict()).path
        for side in SIDES:
            shape: Index3 = (side * CORE[0], side * CORE[1], side * CORE[2])
            source, out = folder / "volume.ome.zarr", folder / "result.ome.zarr"
            make_volume(source, shape)
            program = Path(__file__).with_name("with_tile.py")
            done = watch([sys.executable, program, source, out, model, tile])
            told = json.loads(done.stdout.splitlines()[-1])
            if told["blocks"] != side**3:
                raise RuntimeError(f"{told['blocks']} blocks where {side**3} were meant")
            peaks.append(max(done.peak_mb, told["peak_mb"]))
            rows.append(
                [
                    str(told["blocks"]),
                    f"{math.prod(shape) / 1e6:.1f}",
                    f"{sum(told['objects'].values()):,}",
                    f"{peaks[-1]:.0f}",
                    f"{100 * (peaks[-1] / peaks[0] - 1):+.0f} %",
                ]
            )
            for path in (source, out, Path(f"{out}.job")):
                shutil.rmtree(path)
    grown = max(peaks) / min(peaks) - 1
    held = "holds" if grown <= GOAL else "does not hold"
    rows.append(["most over least", "", "", f"{100 * grown:.0f} %", f"≤ 15 %: {held}"])
    return Section(
        "Memory by number of blocks",
        f"`segment` with the network of synapse-vnc-bb, all targets, on mirrored sample; blocks of {CORE} with a halo of "
        f"{HALO}, much smaller than the default, so that growth would show. Peak of the engine's process. The volume of 8 "
        "blocks does not fill the cache of decoded chunks (64 MB) and what is kept for reuse; from 64 blocks on the peak stays.",
        rows,
    )
