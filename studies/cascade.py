"""What cascades save and miss, on volumes whose truth is known: ``make study-cascade``, or ``python studies/cascade.py``.

Makes sparse volumes (``recipes/make_sparse.py``; they are made, not real) in ``build/studies``, runs the commands that
users have, and writes docs/studies/cascade.md. Every measurement is kept in ``studies/results/cascade`` and not repeated;
delete its file to measure again. ``--report`` only writes the page. Needs the data sets (docs/data.md), 5 GB of disk and
an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cascade_report import report
from kept import digest, made

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
from run import machine  # noqa: E402

from connectoscope.evaluation.points import match_points  # noqa: E402
from connectoscope.training.recipe import find_data  # noqa: E402
from connectoscope.volumes import open_volume  # noqa: E402
from connectoscope.volumes.geometry import Box  # noqa: E402
from connectoscope.zoo import find_model  # noqa: E402

RESULTS = ROOT / "studies" / "results" / "cascade"
RATES = ROOT / "tests" / "benchmarks" / "results" / "segment.json"
MODEL = "synapse-vnc"
SOURCES = {  # what decides the results besides the code: the model with its gate, and what makes the volumes
    MODEL: digest(find_model(MODEL).hash, str(find_model(MODEL).gate_hash)),
    "volumes": digest(
        *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "recipes").glob("*sparse*.py")))
    ),
}
WORK = ROOT / "build" / "studies" / f"cascade-{digest(*SOURCES.values())}"
SEEDS = range(5)
WITHIN = 10.0  # micrometres, from a point to the true one
log = logging.getLogger("study")


@dataclass(frozen=True)
class Case:
    """A made volume and what is looked for in it."""

    name: str
    kind: str
    megavoxels: int
    seed: int
    runs: int  # of which the median time counts

    @property
    def path(self) -> Path:
        return WORK / f"{self.name}.ome.zarr"

    @property
    def cells(self) -> bool:
        return self.kind == "lightsheet"

    def out(self, name: str) -> Path:
        return WORK / f"{self.name}-{name}{'.csv' if self.cells else '.ome.zarr'}"

    def run(self, out: Path, cascade: str) -> dict[str, Any]:
        """The command as a user gives it; its summary, and the seconds of the whole process as ``wall``."""
        what = (
            ["detect", self.path, out, "--detector", "cells"]
            if self.cells
            else ["segment", self.path, out, "--model", MODEL, "--target", "synapses"]
        )
        return command([*what, "--cascade", cascade, "--overwrite"])

    def plan(self, path: Path, seed: int) -> dict[str, Any]:
        what = ["--detector", "cells"] if self.cells else ["--model", MODEL, "--target", "synapses"]
        return command(["plan-cascade", self.path, path, *what, "--seed", seed, "--overwrite"])

    def score(self, out: Path) -> dict[str, float]:
        """Objects against the known truth."""
        if not self.cells:
            found = command(["evaluate", out, self.path / "labels" / "synapses", "--target", "synapses"])
            tp, fp, fn = (found[f"object_{k}"] for k in ("tp", "fp", "fn"))
            return {"precision": tp / max(tp + fp, 1), "recall": tp / (tp + fn), "f1": found["object_f1"]}
        true = np.array(columns(self.path.with_name(f"{self.name}.truth.csv"))) * (5.0, 2.0, 2.0)
        found = match_points(columns(out), true, WITHIN)
        return {"precision": found.precision, "recall": found.recall, "f1": found.f1}


CASES = (
    Case("cells-256", "lightsheet", 256, 0, 3),
    Case("cells-512", "lightsheet", 512, 1, 3),
    Case("synapses-254", "synapse-tiles", 254, 0, 1),
)
ONCE = Case("cells-2048", "lightsheet", 2048, 2, 1)


def columns(path: Path) -> list[list[float]]:
    with path.open(newline="") as file:
        return [[float(row[k]) for k in "zyx"] for row in csv.DictReader(file)]


def command(words: list[Any]) -> dict[str, Any]:
    started = time.perf_counter()
    line = [sys.executable, "-m", "connectoscope", *map(str, words), "--json"]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    wall = time.perf_counter() - started
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary | {"wall": round(wall, 2)}


def kept(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The measurement of that name: from its file, or made now."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        log.info("measuring %s", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": machine(), **made(SOURCES), **measure()}, indent=1) + "\n"
        path.write_text(text, encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def make(case: Case) -> None:
    if not case.path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        script = ROOT / "recipes" / "make_sparse.py"
        line = [sys.executable, script, case.kind, case.path]
        line += ["--megavoxels", case.megavoxels, "--seed", case.seed]
        subprocess.run([str(word) for word in line], check=True)


def one_level(case: Case) -> dict[str, Any]:
    make(case)
    out = case.out("one")
    runs = [case.run(out, "off") for _ in range(case.runs)]
    return {
        "wall": statistics.median(run["wall"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "memory": max(run["peak_memory_mb"] for run in runs),
        "objects": runs[0]["objects"],
        "shape": open_volume(case.path).shape,
        "score": case.score(out),
    }


def planned(case: Case, seed: int) -> dict[str, Any]:
    """A plan by one pilot, and runs with it: what was said and what was so."""
    make(case)
    path = WORK / f"{case.name}-{seed}.cascade.json"
    plan = case.plan(path, seed)
    out = case.out(str(seed))
    runs = [case.run(out, str(path)) for _ in range(case.runs)]
    measured = {
        "plan_wall": plan["wall"],
        "pays": plan["pays"],
        "pilot": {k: plan["pilot"][k] for k in ("cells", "positives", "effective_positives")},
        "calls_predicted": plan["calls"],
        "cells": plan["cells"],
        "seconds_predicted": plan["seconds"],
        "one_level_predicted": plan["one_level_seconds"],
        "recall_interval": plan["recall_interval"],
        "gates": json.loads(path.read_text(encoding="utf-8"))["gates"],
        "wall": statistics.median(run["wall"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "memory": max(run["peak_memory_mb"] for run in runs),
        "objects": runs[0]["objects"],
        "score": case.score(out),
    }
    if plan["pays"]:
        cascade = runs[0]["cascade"]
        calls = [cascade["calls"][0] - cascade["woken"], *cascade["calls"][1:]]
        measured |= {"calls": calls, "woken": cascade["woken"], "read": runs[0]["level0_read"]}
        if case in CASES:
            measured |= {"recall": cell_recall(case, path, out)}
    return measured


def fewer_levels(case: Case) -> dict[str, Any]:
    """The plan of seed 0 without its coarsest level."""
    make(case)
    planned_path = WORK / f"{case.name}-0.cascade.json"
    if not planned_path.exists():
        case.plan(planned_path, 0)
    plan = json.loads(planned_path.read_text(encoding="utf-8"))
    plan["gates"] = plan["gates"][:1]
    plan["predicted"]["calls"] = plan["predicted"]["calls"][:2]
    path = WORK / f"{case.name}-two.cascade.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    out = case.out("two")
    runs = [case.run(out, str(path)) for _ in range(case.runs)]
    return {
        "wall": statistics.median(run["wall"] for run in runs),
        "read": runs[0]["level0_read"],
        "score": case.score(out),
        "gates": plan["gates"],
    }


def cell_recall(case: Case, plan: Path, out: Path) -> float:
    """Share of the cells of level 0 in which one level finds something, that the gates accepted (wakes apart)."""
    import zarr

    core = json.loads(plan.read_text(encoding="utf-8"))["core"]
    marks = out.with_suffix(".cascade.ome.zarr") if case.cells else out / "labels" / "cascade"
    accepted = zarr.open_array(marks / "0", mode="r")[...] == 2
    positive = positive_cells(case, tuple(core))
    return float(accepted[tuple(np.array(sorted(positive)).T)].mean())


def positive_cells(case: Case, core: tuple[int, int, int]) -> list[list[int]]:
    """Places of the cells in which the fine detector alone finds something."""
    name = f"{case.name}-positive-{'x'.join(map(str, core))}"
    finder = _cells_with_points if case.cells else _cells_with_parts
    return list(kept(name, lambda: {"places": finder(case, core)})["places"])


def _cells_with_points(case: Case, core: tuple[int, int, int]) -> list[list[int]]:
    from connectoscope.detection.run import search_for

    search = search_for(open_volume(case.path), box=None, level=0, diameter=14.0, threshold=3.5)
    detector = search.detector(search.noise(), core)
    return [
        [int(i) for i in block.id.split("_")]
        for block in detector.lattice.blocks(search.box)
        if detector.compute(block, detector.read(block)).facts["positive"]
    ]


def _cells_with_parts(case: Case, core: tuple[int, int, int]) -> list[list[int]]:
    from connectoscope.segmentation.cascaded import look_for
    from connectoscope.segmentation.targets import choose_targets

    make(case)
    if not case.out("one").exists():
        case.run(case.out("one"), "off")
    targets, _ = choose_targets(find_model(MODEL).card, ("synapses",), None, None)
    result = open_volume(case.out("one"), channel="synapses")
    voxel = float(np.prod(result.voxel_size_nm(0)))
    look = look_for(targets, voxel)
    places = []
    for place in np.ndindex(*(-(-n // c) for n, c in zip(result.shape, core, strict=True))):
        start = tuple(i * c for i, c in zip(place, core, strict=True))
        stop = tuple(min(s + c, n) for s, c, n in zip(start, core, result.shape, strict=True))
        part = result.read(Box(start, stop)).astype(np.uint8)  # type: ignore[arg-type]
        if look(np.repeat(part[None], targets[0].channel + 1, 0))["positive"]:
            places.append(list(place))
    return places


def counter_example() -> dict[str, Any]:
    """``vnc_sstem`` itself: what the planner says, and what a cascade that is forced on it does."""
    source = find_data("vnc_sstem/raw.ome.tif", "figshare 856713")
    path, what = WORK / "vnc.cascade.json", ["--model", MODEL, "--target", "synapses"]
    WORK.mkdir(parents=True, exist_ok=True)
    plan = command(["plan-cascade", source, path, *what, "--overwrite"])
    one = command(["segment", source, WORK / "vnc-one.ome.zarr", *what, "--overwrite"])
    forced = json.loads(path.read_text(encoding="utf-8"))
    gates = plan["pilot"]["best"]["gates"]
    thresholds = plan["pilot"]["best"]["thresholds"]
    forced["gates"] = [
        {"factor": factor, "gate": gate, "threshold": t}
        for (factor, gate), t in zip(gates, thresholds, strict=True)
    ]
    forced["predicted"]["calls"] = [0.0] * (len(gates) + 1)
    path.write_text(json.dumps(forced), encoding="utf-8")
    two = command(["segment", source, WORK / "vnc-two.ome.zarr", *what, "--cascade", path, "--overwrite"])
    return {
        "verdict": plan["verdict"],
        "pays": plan["pays"],
        "one_level_wall": one["wall"],
        "cascade_wall": two["wall"],
        "cascade_calls": two["cascade"]["calls"][0],
        "cells": plan["cells"],
        "objects": [one["objects"], two["objects"]],
    }


def real_cells() -> dict[str, Any]:
    """The reference points of planes 10-19 of ``lightsheet_cells``, the whole stack searched, one to one within 10 µm."""
    source = find_data("lightsheet_cells/raw.ome.tif", "github.com/brainglobe/cellfinder")
    WORK.mkdir(parents=True, exist_ok=True)
    out = WORK / "lightsheet_cells.csv"
    command(["detect", source, out, "--detector", "cells", "--overwrite"])
    points = np.array(columns(out))
    points = points[(points[:, 0] >= 9.5 * 5) & (points[:, 0] < 19.5 * 5)]
    true = np.array(columns(find_data("lightsheet_cells/peer_cells_zyx.csv", "docs/data.md"))) * (
        5.0,
        2.0,
        2.0,
    )
    found = match_points(points, true, WITHIN)
    return {"found": found.tp, "references": len(true), "points": len(points)}


def peer() -> dict[str, Any]:
    """cellfinder's detection stage, run once, after one level of ours, run as often as the case says."""
    import peer_cellfinder

    case = CASES[0]
    make(case)
    ours, out = one_level(case), WORK / "cellfinder.csv"
    theirs = peer_cellfinder.detect(case.path, (5.0, 2.0, 2.0), out=out)
    true = np.array(columns(case.path.with_name(f"{case.name}.truth.csv"))) * (5.0, 2.0, 2.0)
    found = match_points(np.array(theirs.points) * (5.0, 2.0, 2.0), true, WITHIN)
    return {
        "ours": ours,
        "version": theirs.version,
        "seconds": theirs.seconds,
        "compile_seconds": theirs.compile_seconds,
        "memory": theirs.peak_memory_mib,
        "score": {"precision": found.precision, "recall": found.recall, "f1": found.f1},
    }


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true", help="only write the page from what was kept")
    asked = parser.parse_args()
    os.chdir(ROOT)
    if not asked.report:
        measure_all()
    page = ROOT / "docs" / "studies" / "cascade.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(report(RESULTS, [c.name for c in CASES], RATES, SOURCES), encoding="utf-8")
    return 0


def measure_all() -> None:
    """What has not been measured yet."""
    for case in CASES:
        kept(f"{case.name}-one", lambda case=case: one_level(case))  # type: ignore[misc]
        for seed in SEEDS:
            kept(f"{case.name}-seed{seed}", lambda case=case, seed=seed: planned(case, seed))  # type: ignore[misc]
        if len(kept(f"{case.name}-seed0", dict)["gates"]) > 1:
            kept(f"{case.name}-two", lambda case=case: fewer_levels(case))  # type: ignore[misc]
    kept("lightsheet_cells", real_cells)
    kept("vnc", counter_example)
    kept("cellfinder", peer)
    kept("cells-2048-one", lambda: one_level(ONCE))
    kept("cells-2048-seed0", lambda: planned(ONCE, 0))


if __name__ == "__main__":
    sys.exit(main())
