"""docs/studies/budgeted_broadcast.md from the measurements that ``pruning.py`` keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as student

from connectoscope.evaluation.voxels import precision_recall

DRAWS = 2000
FOLDS = 3
Found = dict[tuple[str, int, int], dict[str, Any]]  # by arm, fold, seed
Row = list[str]
TITLES = {
    "dense": "dense",
    "bb-in": "Budgeted Broadcast, SP-in",
    "bb-out": "Budgeted Broadcast, SP-out",
    "magnitude": "magnitude",
    "shuffled": "SP-out, on-rates shuffled",
    "rigl": "RigL",
    "narrow": "narrow from the start",
    "channels": "whole channels by traffic",
    "channels-taught": "whole channels by traffic, taught by the dense network",
    "channels-finished": "whole channels by traffic, of the finished dense network, which teaches",
    "narrow-channels": "narrow from the start, as few channels",
    "narrow-channels-longer": "narrow from the start, as few channels, as many updates as that",
    "library": "whole channels by torch-pruning",
}


def title(arm: str) -> str:
    name, _, density = arm.rpartition("-")
    return f"{TITLES[name]}, {density}" if density.startswith("0.") else TITLES[arm]


def report(results: Path, wanted: dict[str, tuple[str, int, int]], page: Path) -> str:
    """The page; beside it, the plot. What has not been run yet is left out, and the page says how much that is."""
    found: Found = {
        run: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name, run in wanted.items()
        if (results / f"{name}.json").exists()
    }
    arms = list(dict.fromkeys(arm for arm, _, _ in wanted.values() if not arm.startswith(("beta", "wide"))))
    whole = [arm for arm in arms if sets_of(found, arm)]
    scores = {arm: Scores(found, arm) for arm in whole}
    plot(scores, page.with_suffix(".png"))
    left = len(wanted) - len(found)
    parts = [
        "# Does pruning by activity keep more than its rivals?",
        "Written by `make study-pruning` from the measurements in studies/results/pruning"
        + (f"; **{left} of {len(wanted)} runs are still missing**." if left else f", {len(wanted)} runs."),
        SETUP,
        f"![Object F1 against multiplications]({page.with_suffix('.png').name})",
        "## Accuracy",
        MEANING,
        _table(_accuracy(scores)),
        "## Differences",
        "Pairs of the same folds, seeds and blocks of the image. In brackets the 95 % interval: of F1 by the bootstrap, of "
        "the average precision of voxels by Student's t over the pairs of runs (three or nine).",
        _table(_differences(scores)),
        "## What the units do",
        "On the held-out sections, all layers: coding entropy of a unit (bits), mean |correlation| of the units of a "
        "layer, share of the connections kept by layer.",
        _table(_units(found, scores)),
        *_choices(found),
    ]
    return "\n\n".join(parts) + "\n"


SETUP = (
    "`vnc_sstem` at 18.4 nm per pixel, sections 0–4, 5–9 and 10–14 held out in turn, trained on the ten others "
    "(`recipes/study-pruning.toml`: 0.15 million parameters, three outputs, 800 updates of two patches of 5 × 128 × 128). "
    "All get the same updates, but for two that say so, which get two fifths more. Pruned networks share the dense warm-up "
    "of 400 updates of their fold and seed, then choose masks every 40 updates until 640, and train on under the last "
    "ones. Rivals keep the same share of the connections of every layer as SP-in does; shuffled ones have the degrees of "
    "SP-out, given to the wrong units. Narrow networks have "
    "as many multiplications as the pruned ones have connections. Nothing is chosen on held-out sections: the weights are "
    "the last averaged ones, the threshold of a fold is the best one of the two others."
)
MEANING = (
    "Synapses. F1 of objects pooled over the folds (any overlap, and IoU ≥ 0.3), with the 95 % interval of a bootstrap "
    "over 4 × 4 blocks of the image of each fold and over the sets of seeds; average precision (PR-AUC) of objects "
    "ranked by mean probability, and of voxels, pooled over folds, the mean over sets. A set is one network a fold: one "
    "where there is one seed, three where there are three. Multiplications count connections that are not 0, per voxel."
)


def sets_of(found: Found, arm: str) -> list[int]:
    """Shifts k for which all folds have been run: fold i with seed i + k."""
    return [k for k in range(3) if all((arm, i, (i + k) % 3) in found for i in range(FOLDS))]


class Scores:
    """Of one arm: everything by set and fold."""

    def __init__(self, found: Found, arm: str) -> None:
        self.arm = arm
        self.sets = sets_of(found, arm)
        self.runs = {(k, i): found[arm, i, (i + k) % 3] for k in self.sets for i in range(FOLDS)}
        self.macs = float(np.mean([run["macs"] for run in self.runs.values()]))
        self.blocks = {kind: {k: self._blocks(kind, k) for k in self.sets} for kind in ("any", "iou")}

    def _blocks(self, kind: str, k: int) -> NDArray[np.int64]:
        """tp, fp, fn by block, (folds * blocks, 3), each fold at the best threshold of the two others."""
        thresholds = [key.split("-")[1] for key in self.runs[k, 0]["objects"] if key.startswith(kind)]
        counts = np.array(
            [[self.runs[k, i]["objects"][f"{kind}-{t}"] for t in thresholds] for i in range(FOLDS)]
        )  # (fold, threshold, block, 3)
        chosen = []
        for i in range(FOLDS):
            others = np.delete(counts, i, axis=0).sum((0, 2))
            chosen.append(counts[i, int(np.argmax(f1(others)))])
        return np.concatenate(chosen)

    def f1(self, kind: str, draw: NDArray[np.int64] | None = None, sets: list[int] | None = None) -> float:
        """Mean over the sets; of drawn blocks."""
        picked = [self.blocks[kind][k] for k in (self.sets if sets is None else sets)]
        return float(np.mean([f1(b.sum(0) if draw is None else b[draw].sum(0)) for b in picked]))

    def object_precision(self) -> float:
        """Average precision of ranked candidates, pooled over folds."""
        values = []
        for k in self.sets:
            runs = [self.runs[k, i]["candidates"] for i in range(FOLDS)]
            ranked = sorted((c for run in runs for c in run["ranked"]), reverse=True)
            right = np.array([c[1] for c in ranked], float)
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            values.append(float((precision * right).sum() / sum(run["true"] for run in runs)))
        return float(np.mean(values))

    def voxels(self, output: str = "synapses") -> float:
        """Average precision, histograms pooled over folds."""
        values = []
        for k in self.sets:
            inside, outside = np.sum([self.runs[k, i]["histograms"][output] for i in range(FOLDS)], axis=0)
            values.append(precision_recall(inside, outside).average_precision)
        return float(np.mean(values))

    def run_voxels(self) -> dict[tuple[int, int], float]:
        """Average precision of voxels by set and fold."""
        return {
            key: precision_recall(*map(np.array, run["histograms"]["synapses"])).average_precision
            for key, run in self.runs.items()
        }


def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of tp, fp, fn in the last axis; 0 where there is nothing."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    total = 2 * tp + fp + fn
    return np.divide(2.0 * tp, total, out=np.zeros(np.shape(total)), where=total > 0)


def bootstrap(one: Scores, other: Scores | None = None, kind: str = "any") -> tuple[float, float, float]:
    """F1, or its difference to another arm's over common sets, with the 95 % interval."""
    sets = [k for k in one.sets if other is None or k in other.sets]
    rng = np.random.default_rng(0)
    blocks = len(one.blocks[kind][sets[0]])

    def value(draw: NDArray[np.int64] | None, picked: list[int]) -> float:
        mine = one.f1(kind, draw, picked)
        return mine if other is None else mine - other.f1(kind, draw, picked)

    drawn = [
        value(rng.integers(blocks, size=blocks), [sets[i] for i in rng.integers(len(sets), size=len(sets))])
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return value(None, sets), float(low), float(high)


def paired_t(one: Scores, other: Scores) -> tuple[float, float, float]:
    """Difference of the average precision of voxels over common runs, with the 95 % interval."""
    mine, theirs = one.run_voxels(), other.run_voxels()
    gaps = np.array([mine[key] - theirs[key] for key in mine if key in theirs])
    half = student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half)


def _accuracy(scores: dict[str, Scores]) -> list[Row]:
    rows = [
        [
            "network",
            "multiplications",
            "sets",
            "F1",
            "F1, IoU ≥ 0.3",
            "objects",
            "voxels",
            "mitochondria",
            "membranes",
        ]
    ]
    for arm, s in scores.items():
        rows.append(
            [
                title(arm),
                f"{s.macs:,.0f}",
                str(len(s.sets)),
                _interval(bootstrap(s)),
                f"{s.f1('iou'):.3f}",
                f"{s.object_precision():.3f}",
                f"{s.voxels():.3f}",
                f"{s.voxels('mitochondria'):.3f}",
                f"{s.voxels('boundary'):.3f}",
            ]
        )
    return rows


def _differences(scores: dict[str, Scores]) -> list[Row]:
    rows = [["network", "against", "F1 of objects", "average precision of voxels"]]
    for arm, s in scores.items():
        rivals = ["dense"]
        if arm.startswith("bb-"):
            density = arm.rpartition("-")[2]
            rivals += [f"magnitude-{density}", f"rigl-{density}", f"narrow-{density}"]
            rivals += [f"shuffled-{density}"] if arm.startswith("bb-out") else []
        if arm == "channels-finished":
            rivals.append("narrow-channels-longer")
        elif arm.startswith("channels"):
            rivals += ["narrow-channels", "library"]
        for rival in rivals:
            if arm != rival and rival in scores:
                pair = s, scores[rival]
                rows.append([title(arm), title(rival), _signed(bootstrap(*pair)), _signed(paired_t(*pair))])
    return rows


def _units(found: Found, scores: dict[str, Scores]) -> list[Row]:
    rows = [
        [
            "network",
            "entropy",
            "mean &#124;correlation&#124;",
            "connections kept: least, most",
        ]
    ]
    for arm, s in scores.items():
        runs = list(s.runs.values())
        kept = [list(run["layers"].values()) for run in runs if "layers" in run]
        rows.append(
            [
                title(arm),
                f"{np.mean([run['entropy'] for run in runs]):.3f}",
                f"{np.mean([run['likeness'] for run in runs]):.3f}",
                f"{100 * np.min(kept):.0f} %, {100 * np.max(kept):.0f} %" if kept else "",
            ]
        )
    return rows


def _choices(found: Found) -> list[str]:
    """What was tried on the choosing sections before."""
    runs = {arm: entry for (arm, fold, _), entry in found.items() if fold == FOLDS}
    if not runs:
        return []
    rows = [["network", "multiplications", "synapses", "mitochondria", "membranes"]]
    for arm, entry in runs.items():
        curves = {
            o: precision_recall(*map(np.array, h)).average_precision for o, h in entry["histograms"].items()
        }
        name = {"dense": "dense", "wide": "dense, half as wide again"}.get(arm, "")
        if arm.startswith("beta"):
            _, actuator, density, beta = arm.split("-")
            name = f"SP-{actuator}, {density}, β = {beta} · 4 / D"
        rows.append([name, f"{entry['macs']:,}", *(f"{value:.3f}" for value in curves.values())])
    text = (
        "Trained on sections 0–10, scored on 11–12 (average precision of voxels; these two are held out in the third fold as "
        "well, so the choice has seen two of its five sections), one seed: whether the set-up is large "
        "enough, and β, of which the best is taken for each actuator and density (k changes by 1 / β for each unit of log-odds)."
    )
    return ["## Choices", text, _table(rows)]


def plot(scores: dict[str, Scores], path: Path) -> None:
    """F1 with its interval against multiplications."""
    mpl.rcParams["svg.hashsalt"] = "0"
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    for index, (arm, s) in enumerate(scores.items()):
        value, low, high = bootstrap(s)
        colour, marker = f"C{index % 10}", "osD^vPX*"[index // 10 % 8 + (len(s.sets) == 1)]
        axes.errorbar(
            s.macs * (1 + 0.012 * (index % 5 - 2)),
            value,
            [[max(value - low, 0)], [max(high - value, 0)]],
            fmt=marker,
            color=colour,
            capsize=3,
            label=title(arm),
        )
    axes.set_xscale("log")
    axes.set_xlabel("multiplications per voxel (connections that are not 0)")
    axes.set_ylabel("F1 of synapses, 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _interval(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def _signed(value: tuple[float, float, float]) -> str:
    return f"{value[0]:+.3f} ({value[1]:+.3f} to {value[2]:+.3f})"


def _table(rows: list[Row]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])
