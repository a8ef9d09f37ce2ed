"""``segment`` beside MONAI's sliding window with the same network on the same volume, and what makes the difference."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from mirrored import make_volume
from section import Section

from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.precision import PRECISIONS as TYPES
from connectoscope.networks.precision import best_precision
from connectoscope.networks.predictor import choose_tile
from connectoscope.volumes.geometry import Index3
from connectoscope.zoo import Bundle, find_model

MODEL = "synapse-vnc"
SHAPE = (48, 1152, 1152)  # 64 megavoxels
ROIS: tuple[Index3, ...] = ((16, 128, 128), (16, 256, 256), (32, 384, 384))
PRECISIONS = tuple(dict.fromkeys(("float32", best_precision("cpu"))))  # bfloat16 only where it is native
GOALS = {
    (precision, overlap): goal
    for precision, overlap, goal in (
        ("float32", 0.25, 5),
        ("float32", 0.5, 10),
        ("bfloat16", 0.25, 2),
        ("bfloat16", 0.5, 4),
    )
    if precision in PRECISIONS
}
FACTORS_VOXELS = 6_000_000  # of the tile on which one factor after the other is looked at
PART = 320  # least side of the part that MONAI runs on


def windows(shape: Index3, roi: Index3, overlap: float) -> int:
    """How many windows MONAI runs: ``monai.inferers.utils._get_scan_interval`` and ``dense_patch_slices``."""
    count = 1
    for n, r in zip(shape, roi, strict=True):
        step = r if n == r else max(int(r * (1 - overlap)), 1)
        count *= math.ceil(max(n - r, 0) / step) + 1
    return count


def part_for(roi: Index3, overlap: float) -> Index3:
    """All planes of a part whose y and x the windows fill exactly, so that MONAI computes nothing in vain there."""
    sides = []
    for r in roi[1:]:
        step = int(r * (1 - overlap))
        sides.append(r + step * max(1, math.ceil((PART - r) / step)))
    return (SHAPE[0], sides[0], sides[1])


@dataclass
class Run:
    """A MONAI run on a part; ``whole``: seconds for the whole volume, by the number of windows."""

    roi: Index3
    overlap: float
    part: Index3
    seconds: float
    difference: float

    @property
    def computed(self) -> float:
        """Megavoxels that went through the network."""
        return windows(self.part, self.roi, self.overlap) * math.prod(self.roi) / 1e6

    @property
    def cover(self) -> float:
        """Voxels computed per voxel of the whole volume."""
        return windows(SHAPE, self.roi, self.overlap) * math.prod(self.roi) / math.prod(SHAPE)

    @property
    def per_megavoxel(self) -> float:
        """Seconds per megavoxel of the whole volume."""
        return self.seconds / self.computed * self.cover


def cover_of(tile: Index3, halo: Index3) -> float:
    """Voxels computed per voxel of the volume, with tiles of that shape."""
    parts = zip(SHAPE, tile, halo, strict=True)
    return math.prod(-(-n // (t - 2 * h)) * t / n for n, t, h in parts)


def ask_monai(**job: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(peers.monai_folder())}
    command = [sys.executable, str(Path(__file__).with_name("peer_monai.py")), json.dumps(job)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def best_rois() -> dict[tuple[str, float], Index3]:
    """The roi that is the fastest on the whole volume, by the seconds of a window."""
    seconds = {
        (tuple(a["roi"]), a["precision"]): a["seconds"]
        for a in ask_monai(model=MODEL, rois=list(ROIS), precisions=PRECISIONS)
    }
    return {
        (precision, overlap): min(
            ROIS, key=lambda roi: seconds[roi, precision] * windows(SHAPE, roi, overlap)
        )
        for precision, overlap in GOALS
    }


def segment(source: Path, out: Path) -> tuple[float, dict[str, Any]]:
    """Seconds per megavoxel of all phases, and the plan."""
    command = [sys.executable, "-m", "connectoscope", "segment", source, out, "--model", MODEL]
    command += ["--json", "--keep-job", "--overwrite"]
    done = subprocess.run([str(w) for w in command], check=True, stdout=subprocess.PIPE, text=True)
    plan = json.loads((out.with_name(out.name + ".job") / "plan.json").read_text())
    return 1 / json.loads(done.stdout)["megavoxels_per_second"], plan


def factors(bundle: Bundle, tile: Index3) -> dict[str, float]:
    """Seconds per megavoxel of a tile, of the network as trained and with one change each; medians of two, in turn."""
    halo = bundle.halo(False)
    trained = bundle.load_network()
    folded = fold_batch_norm(trained)
    last = bundle.load_network().to(memory_format=torch.channels_last_3d)
    best = PRECISIONS[-1]
    half = bundle.load_network().to(TYPES[best])
    fast = fold_batch_norm(trained).to(TYPES[best]).to(memory_format=torch.channels_last_3d)
    x = torch.rand(1, 1, *tile) - 0.5
    x_last = x.contiguous(memory_format=torch.channels_last_3d)
    x_half = x.to(TYPES[best])
    x_fast = x_half.contiguous(memory_format=torch.channels_last_3d)
    runs = {
        "network as trained, float32": lambda: trained(x),
        "batch norm folded, alone": lambda: folded(x),
        "channels last, alone": lambda: last(x_last),
        f"{best}, alone": lambda: half(x_half),
        "all three": lambda: fast(x_fast),
        "all three, and no more of the halo than the core needs": lambda: fast(x_fast, halo),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(3):
            for name, run in runs.items():
                started = time.perf_counter()
                run()
                if turn:
                    taken[name].append((time.perf_counter() - started) / math.prod(tile) * 1e6)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def measure() -> Section:
    """Both in turn; start-up is not counted for either, and MONAI makes neither labels nor files."""
    bundle = find_model(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "volume.ome.zarr", Path(folder) / "result.ome.zarr"
        make_volume(source, SHAPE)
        rois = best_rois()
        ours, runs = [], {}
        plan: dict[str, Any] = {}

        def monai(precision: str, overlap: float, mode: str) -> Run:
            roi = rois[precision, overlap]
            part = part_for(roi, overlap)
            job = {"model": MODEL, "source": str(source), "shape": part, "range": plan["intensity"]}
            job |= {"roi": roi, "overlap": overlap, "mode": mode, "precision": precision, "ours": str(out)}
            return Run(roi, overlap, part, **ask_monai(**job))

        for index, (precision, overlap) in enumerate(GOALS):
            if index % 2 == 0:
                seconds, plan = segment(source, out)
                ours.append(seconds)
            runs[precision, overlap] = monai(precision, overlap, "gaussian")
        constant = monai("float32", 0.25, "constant")
        ours.append(segment(source, out)[0])
    tile = choose_tile(SHAPE, bundle.halo(False), bundle.card.stride, FACTORS_VOXELS)
    cover, own_cover = (cover_of(t, bundle.halo(False)) for t in (tile, tuple(plan["tile"])))
    own = statistics.median(ours)
    rows = [
        ["what", "s per megavoxel computed", "computed per voxel", "s per megavoxel", "`segment` is", "goal"]
    ]
    rows.append(["`segment`", "", f"{own_cover:.2f}", f"{own:.3f} ({min(ours):.3f}–{max(ours):.3f})", "", ""])
    for (precision, overlap), run in runs.items():
        ratio, goal = run.per_megavoxel / own, GOALS[precision, overlap]
        name = f"MONAI, {precision}, gaussian, overlap {overlap}, roi {run.roi}"
        rows.append([name, *_figures(run), f"{ratio:.1f} times as fast", f"≥ {goal}: {_held(ratio >= goal)}"])
    name = "MONAI, float32, no gaussian, overlap 0.25"
    rows.append([name, *_figures(constant), f"{constant.per_megavoxel / own:.1f} times as fast", ""])
    for name, seconds in factors(bundle, tile).items():
        figures = [f"{seconds:.3f}", f"{cover:.2f}", f"{seconds * cover:.3f}"]
        rows.append([f"halo instead of overlap; {name}", *figures, "", ""])
    parts = "; ".join(sorted({f"{r.part} of overlap {r.overlap}" for r in runs.values()}))
    worst = float(np.max([run.difference for run in runs.values()]))
    return Section(
        "Segment beside MONAI",
        f"`sliding_window_inference` of {peers.MONAI} and `connectoscope segment` with {MODEL}, the same zarr of "
        f"{math.prod(SHAPE) / 1e6:.0f} megavoxels, {os.cpu_count()} cores. `segment` runs all of it, {len(ours)} times, "
        f"{plan['precision']}, tile {tuple(plan['tile'])}, halo {bundle.halo(False)}; "
        "labels, tables, pyramids and files are counted. "
        f"MONAI runs parts that its windows fill along y and x ({parts}) and is given the number of windows of the whole; "
        "reading, inference and sigmoid are counted, the result stays in memory. For each precision and overlap it has "
        f"the fastest roi of {', '.join(map(str, ROIS))}. Start-up counts for neither. Where a goal is missed: "
        "nine tenths of the seconds of `segment` are the network's own, and its halo has it compute about as much twice as "
        "MONAI's overlap does. Its probabilities differ from ours "
        f"by at most {worst:.1f} of 255 in the mean. Below: one change each, forward passes of a tile of {tile} with the halo.",
        rows,
    )


def _figures(run: Run) -> list[str]:
    return [f"{run.seconds / run.computed:.3f}", f"{run.cover:.2f}", f"{run.per_megavoxel:.3f}"]


def _held(holds: bool) -> str:
    return "holds" if holds else "does not hold"
