"""docs/studies/budgeted_broadcast.md from the measurements that ``pruning.py`` keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from kept import Row, origin, table
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from connectoscope.evaluation.voxels import precision_recall

DRAWS = 2000
FOLDS = 3
DEFAULT_BETA = 1.0  # of `prune`, times 4 / D
Found = dict[tuple[str, int, int], dict[str, Any]]  # by arm, fold, seed
TITLES = {
    "dense": "dense",
    "bb-in": "Budgeted Broadcast, SP-in",
    "bb-out": "Budgeted Broadcast, SP-out",
    "magnitude": "magnitude",
    "shuffled": "SP-out, on-rates shuffled",
    "rigl": "RigL",
    "narrow": "narrow from the start",
    "channels": "whole channels by traffic",
    "channels-taught": "whole channels by traffic, distilled",
    "channels-finished": "whole channels by traffic, after training, distilled",
    "narrow-channels": "narrow from the start, as few channels",
    "narrow-channels-longer": "narrow from the start, as few channels, longer training",
    "library": "whole channels by torch-pruning",
}


def title(arm: str) -> str:
    name, _, density = arm.rpartition("-")
    return f"{TITLES[name]}, {density}" if density.startswith("0.") else TITLES[arm]


def report(
    results: Path, wanted: dict[str, tuple[str, int, int]], page: Path, sources: dict[str, str]
) -> str:
    """The page; beside it, the plot. What has not been run yet is left out, and the page says how much that is."""
    kept = {
        name: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in wanted
        if (results / f"{name}.json").exists()
    }
    found: Found = {wanted[name]: entry for name, entry in kept.items()}
    arms = list(dict.fromkeys(arm for arm, _, _ in wanted.values() if not arm.startswith(("beta", "wide"))))
    whole = [arm for arm in arms if sets_of(found, arm)]
    scores = {arm: Scores(found, arm) for arm in whole}
    plot(scores, page.with_suffix(".png"))
    left = len(wanted) - len(found)
    differences = _differences(scores)
    parts = [
        "# Does pruning by activity keep more than its rivals?",
        "Written by `make study-pruning` from the measurements in studies/results/pruning"
        + (f"; **{left} of {len(wanted)} runs are still missing**." if left else f", {len(wanted)} runs."),
        origin(kept, sources),
        SETUP,
        BEFORE,
        _unequal(found, scores),
        f"![Object F1 against multiplications]({page.with_suffix('.png').name})",
        "## Accuracy",
        MEANING,
        table(_accuracy(scores)),
        "## Differences",
        "Differences between pairs of the same folds, seeds and blocks of the image. In brackets the 95 % interval: for F1 by "
        "the bootstrap; for the average precision of voxels by Student's t over the three folds, each the mean of its seeds, "
        "because seeds share the held-out sections. † one seed per fold: the interval does not account for differences "
        "between seeds.",
        table(differences),
        f"These are {len(differences) - 1} comparisons of two measures each. No interval is corrected for their number: with so "
        "many, some exclude 0 by chance.",
        *_goals(scores),
        "## What the units do",
        "On the held-out sections, over all layers: coding entropy of a unit (bits), mean |correlation| between the units of a "
        "layer, share of the connections kept in a layer.",
        table(_units(scores)),
        *_choices(found),
    ]
    return "\n\n".join(parts) + "\n"


SETUP = (
    "Data: `vnc_sstem` at 18.4 nm per pixel; sections 0–4, 5–9 and 10–14 are held out in turn (three folds), and the ten "
    "others are trained on (`recipes/study-pruning.toml`: 0.15 million parameters, three outputs, 800 updates of two patches "
    "of 5 × 128 × 128). All networks get the same number of updates, except those with *after training* and *longer "
    "training*, which get two fifths more: the first is pruned when it is finished, as `prune` does it, and the second is "
    "narrow, for comparison. *Distilled*: half of the loss compares with the dense network. Pruned networks share the dense "
    "warm-up of 400 updates of their fold and seed, then choose masks every 40 updates until 640, and keep the last ones for "
    "the rest. SP-out limits the connections that a unit sends, SP-in those that it receives. Shuffled networks have the "
    "fan-outs of SP-out, given to the wrong units. Narrow networks have about as many multiplications as the pruned ones have "
    "connections. Nothing is chosen on held-out sections: the weights are the last averaged ones, and the threshold of a fold "
    "is the best one of the two others."
)
BEFORE = (
    "**All runs are older than two corrections.** Units that masks cut off from all their inputs now keep the on-rate that "
    "they had. Before, it was measured on, fell to 0, and SP-out gave such units the largest audiences: at a density of 0.1, "
    "with weights held fixed, 11 % of all connections, all of them useless; at 0.3 none. So SP-out at 0.1 is worse here than "
    "it has to be, and whole channels taken of a finished network were partly chosen by this. And shuffled networks now keep "
    "their shuffle; before, each refresh of the masks drew another, so that they also lost what exchanging half of the "
    "connections costs."
)
MEANING = (
    "For synapses: F1 of objects pooled over the folds (any overlap, and IoU ≥ 0.3), with the 95 % interval of a bootstrap "
    "over 4 × 4 blocks of the image of each fold and over the sets of seeds; average precision of objects ranked by mean "
    "probability, and of voxels, pooled over folds, the mean over sets. For mitochondria and membranes: average precision of "
    "voxels. A set is one network per fold: there is one set where there is one seed (†), three where there are three. "
    "Multiplications are per voxel and count only connections that are not 0."
)


def _unequal(found: Found, scores: dict[str, Scores]) -> str:
    """What differs between rivals besides the rule."""
    parts = ["Besides the rule, some other things differ."]
    if "bb-out-0.3" in scores:
        shares = _shares(scores["bb-out-0.3"])
        parts.append(
            "Magnitude and RigL keep the same share of connections in every layer as SP-in. SP-out itself decides how to "
            f"spread its connections over the layers (at 0.3: {100 * min(shares):.0f} to {100 * max(shares):.0f} %), so it "
            "differs from them in this, too."
        )
    if {"channels", "narrow-channels", "library"} <= scores.keys():
        whole, narrow, library = (scores[arm].macs for arm in ("channels", "narrow-channels", "library"))
        parts.append(
            f"With whole channels removed, networks pruned by traffic have {whole:,.0f} multiplications and their rivals "
            f"fewer: narrow ones {narrow:,.0f} ({100 * (1 - narrow / whole):.0f} % less), torch-pruning's {library:,.0f} "
            f"({100 * (1 - library / whole):.0f} % less)."
        )
    tried = _betas(found)
    if tried:
        largest = max(max(values) for values in tried.values())
        edge = sum(max(values, key=lambda b: values[b]) == largest for values in tried.values())
        losses = [
            f"{values[DEFAULT_BETA]:.3f} instead of {max(values.values()):.3f} ({name})"
            for name, values in tried.items()
            if name.endswith("0.3")
        ]
        parts.append(
            f"For Budgeted Broadcast the slope β was chosen among {len(next(iter(tried.values())))} values; nothing was chosen "
            f"for magnitude and RigL. {edge} of {len(tried)} times the best β was the largest one tried, {largest} · 4 / D, so "
            f"a still larger one may be better. **`prune` has no option for β and uses {DEFAULT_BETA} · 4 / D**, with which "
            f"the average precision of synapses on the choosing sections is {', '.join(losses)}. `prune` also starts from a "
            "finished network and distils from it; of the networks below only one is made in this way, and whole channels are "
            "removed from it, in which β plays no part. What `prune` makes by default (single connections removed by SP-out) "
            "is not measured here."
        )
    return " ".join(parts)


def _shares(scores: Scores) -> list[float]:
    """Of the connections, kept in each layer of each run."""
    return [share for run in scores.runs.values() for share in run.get("layers", {}).values()]


def _betas(found: Found) -> dict[str, dict[float, float]]:
    """Average precision of synapses on the choosing sections by multiple of 4 / D, for each actuator and density."""
    tried: dict[str, dict[float, float]] = {}
    for (arm, _, _), entry in found.items():
        if arm.startswith("beta"):
            _, actuator, density, beta = arm.split("-")
            curve = precision_recall(*map(np.array, entry["histograms"]["synapses"]))
            tried.setdefault(f"SP-{actuator}, {density}", {})[float(beta)] = curve.average_precision
    return tried


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

    def fold_f1(self, k: int) -> NDArray[np.float64]:
        """F1 of objects of each fold."""
        return f1(self.blocks["any"][k].reshape(FOLDS, -1, 3).sum(1))


def f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of tp, fp, fn in the last axis; 0 where there is nothing."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    total = 2 * tp + fp + fn
    return np.divide(2.0 * tp, total, out=np.zeros(np.shape(total)), where=total > 0)


def bootstrap(one: Scores, other: Scores | None = None, kind: str = "any") -> tuple[float, float, float]:
    """F1, or its difference to another arm's over common sets, with the 95 % interval."""
    sets = one.sets if other is None else common_sets(one, other)
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


def common_sets(one: Scores, other: Scores) -> list[int]:
    return [k for k in one.sets if k in other.sets]


def paired_t(one: Scores, other: Scores) -> tuple[float, float, float]:
    """Difference of the average precision of voxels over common runs, with the 95 % interval."""
    mine, theirs = one.run_voxels(), other.run_voxels()
    sets = common_sets(one, other)
    return over_folds([[mine[k, i] - theirs[k, i] for i in range(FOLDS)] for k in sets])


def over_folds(gaps: ArrayLike) -> tuple[float, float, float]:
    """Mean and 95 % interval of differences (set, fold). Folds count: seeds of a fold share what is held out."""
    folds = np.mean(gaps, axis=0)
    half = student.ppf(0.975, FOLDS - 1) * folds.std(ddof=1) / np.sqrt(FOLDS)
    return float(folds.mean()), float(folds.mean() - half), float(folds.mean() + half)


def _goals(scores: dict[str, Scores]) -> list[str]:
    """Whether what was hoped for at a density of 0.3 is shown by the intervals."""
    if not {"bb-out-0.3", "dense", "narrow-0.3"} <= scores.keys():
        return []
    out, dense = scores["bb-out-0.3"], scores["dense"]
    rows = [["F1 of objects of SP-out, 0.3", "bootstrap", "Student's t over folds", ""]]
    for goal, other, floor in (
        ("at most 0.05 below dense", dense, -0.05),
        ("above narrow from the start", scores["narrow-0.3"], 0.0),
    ):
        sets = common_sets(out, other)
        folds = over_folds([out.fold_f1(k) - other.fold_f1(k) for k in sets])
        drawn = bootstrap(out, other)
        shown = [low > floor for _, low, _ in (drawn, folds)]
        verdict = {2: "shown", 1: "shown by one of them only", 0: "not shown"}[sum(shown)]
        rows.append([_marked(goal, len(sets)), _signed(drawn), _signed(folds), verdict])
    told: dict[str, list[str]] = {"Lower": [], "Higher": [], "Not significantly different": []}
    for arm, s in scores.items():
        if arm.endswith("0.3"):
            _, low, high = paired_t(s, dense)
            word = "Lower" if high < 0 else "Higher" if low > 0 else "Not significantly different"
            told[word].append(_marked(title(arm), len(common_sets(s, dense))))
    words = " ".join(f"{word}: {'; '.join(arms)}." for word, arms in told.items() if arms)
    return [
        "## Goals",
        "*Shown* means that the whole interval lies above the bound.",
        table(rows),
        "Average precision of voxels at a density of 0.3, compared with dense (95 % interval of Student's t over folds). "
        f"{words}",
    ]


def _marked(name: str, sets: int) -> str:
    return f"{name} †" if sets == 1 else name


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
                _marked(title(arm), len(s.sets)),
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
                name = _marked(title(arm), len(common_sets(*pair)))
                rows.append([name, title(rival), _signed(bootstrap(*pair)), _signed(paired_t(*pair))])
    return rows


def _units(scores: dict[str, Scores]) -> list[Row]:
    rows = [
        [
            "network",
            "entropy",
            "mean &#124;correlation&#124;",
            "connections kept: least, most",
        ]
    ]
    for arm, s in scores.items():
        runs, kept = list(s.runs.values()), _shares(s)
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
        "Trained on sections 0–10 and scored on 11–12, one seed, average precision of voxels. These two sections are also "
        "held out in the third fold, so the choice has seen two of its five sections. This checks whether the network is "
        "large enough, and chooses the best β for each actuator and density (k changes by 1 / β for each unit of log-odds)."
    )
    return ["## Choices", text, table(rows)]


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
