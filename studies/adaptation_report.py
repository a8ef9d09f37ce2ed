"""docs/studies/neuroadda.md from the runs that ``adaptation.py`` keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from kept import origin, table
from numpy.typing import NDArray
from scipy import stats

Entry = dict[str, Any]
Found = dict[tuple[str, str, str], dict[str, Entry]]  # of a target, source and way: by seed
Ranks = dict[tuple[str, str], list[Entry]]
WAYS = {
    "zero": "as it is",
    "statistics": "new statistics",
    "four": "four patches",
    "scratch": "from scratch",
}
RULES = {"four": "median-mean"} | {r: r for r in ("top-median", "random", "highest", "k-centre")}
GOAL, WANTED = 0.25, 3  # less than from scratch, on so many targets
PERMUTATIONS = 10_000

MEMBRANES = (
    "One mask of membranes serves as training labels and as ground truth. Where neurons are labelled it is derived from them, "
    "as it was for `neurons-fib`: two voxels on either side wherever two labels meet, with 0 as one more label. In "
    "`fib_medulla_small` 0 is a one-voxel line along the middle of membranes that are three to five voxels wide. `adapt train "
    "--instances` would take that line for the whole membrane; how well that works is not measured here."
)
SPACE = (
    "For the training part of each target, in the common feature space. That space has seen most of them: `features-em` was "
    "trained, with labels, on these very parts of `vnc_sstem`, `isbi2012` and `fib_medulla`; only `fib_medulla_small` is new "
    "to it. *Within its own data*: the distance between two halves of the model's training data."
)
SEEDS = (
    "No target has more than 64 candidates, fewer than the 128 that `adapt suggest` looks at, so all rules but `random` "
    "choose the same patches with every seed: three trainings on one choice of patches. Their spread says nothing about other "
    "choices, and a difference between two of these rules is one between two choices in one volume."
)


def report(
    results: Path,
    nearest: Mapping[str, str],
    sources: Mapping[str, str],
    missing: int,
    today: dict[str, str],
) -> str:
    """The page; what has not been measured yet is left out, and ``missing`` says how many runs these are.

    Args:
        nearest: Of each target, the nearest source.
        sources: Of each source, the set that it was trained on.
        today: What would make the results now.
    """
    found: Found = {}
    ranks: Ranks = {}
    kept = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))
    }
    for name, entry in kept.items():
        target, source, way, seed = name.split("--")
        if source == "all":
            ranks[target, way] = entry["models"]
        else:
            found.setdefault((target, source, way), {})[seed] = entry
    parts = [
        "# New tissue: the nearest model and four patches, or from scratch",
        "Written by `make study-adaptation` from the runs in studies/results/adaptation"
        + (f"; **{missing} runs are still missing**" if missing else "")
        + ". The loss is variation of information (bits) where neurons are labelled, and 1 − F1 of membranes elsewhere. "
        "Thresholds were chosen on the *choose* parts, losses measured on the *report* parts (docs/data.md). *Four patches*: "
        "the source is trained on four patches chosen by `adapt suggest` in the training part. *From scratch*: the same "
        "architecture on the same patches for as many updates (150), with a learning rate of 2e-3 as in the recipes. *As it "
        "is*: the source without training. *New statistics*: only its batch-norm statistics are measured again. Figures are "
        "means over seeds (number in brackets) ± standard deviation. Seeds are trainings on the same patches, except for "
        "`random` (below): the spread is that of training, not of other patches or other tissue.",
        origin(kept, today),
        MEMBRANES,
        *_gain(found, nearest),
        *_ranks(ranks, sources),
        *_pairs(found, ranks),
        *_correlation(found, ranks),
        *_rules(found, nearest),
    ]
    return "\n\n".join(parts) + "\n"


def loss(entry: Entry) -> float:
    return float(entry["neurons"]["vi"] if "neurons" in entry else 1 - entry["membranes"]["f1"])


def _mean(entries: dict[str, Entry]) -> str:
    if not entries:
        return ""
    values = [loss(e) for e in entries.values()]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)})"


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the mean, by Student's t; without end for a single value."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def _gain(found: Found, nearest: Mapping[str, str]) -> list[str]:
    head = [
        "target",
        "nearest other source",
        *WAYS.values(),
        "less than from scratch",
        "four − scratch (95 %)",
    ]
    rows = [head]
    better, so_low, shown, missed = [], [], [], []
    for target, source in nearest.items():
        cells = [found.get((target, source, way), {}) for way in WAYS]
        seeds = sorted(cells[2].keys() & cells[3].keys())
        if not seeds:
            rows.append([target, source, *map(_mean, cells), "", ""])
            continue
        four, scratch = (np.array([loss(cell[seed]) for seed in seeds]) for cell in cells[2:])
        share = float(1 - four.mean() / scratch.mean())
        low, high = _interval(four - scratch)
        rows.append(
            [
                target,
                source,
                *map(_mean, cells),
                f"{100 * share:.0f} %",
                f"{(four - scratch).mean():+.3f} ({low:+.3f} to {high:+.3f})",
            ]
        )
        lowest, highest = _interval(four - (1 - GOAL) * scratch)
        better += [target] * (high < 0)
        so_low += [target] * (share >= GOAL)
        shown += [target] * (highest < 0)
        missed += [target] * (lowest > 0)
    if len(shown) >= WANTED:
        verdict = "The aim is reached."
    elif len(nearest) - len(missed) < WANTED:
        verdict = "The aim is missed."
    else:
        verdict = "Whether the aim is reached is open."
    return [
        "## Nearest source, four patches",
        table(rows),
        "The last column is the mean of the differences between runs with the same seed, with its 95 % interval (Student's "
        f"t). By this interval, four patches and the nearest source are better than from scratch on {_named(better)}; for the "
        "others, so few trainings cannot tell.",
        f"The aim was a loss at least {100 * GOAL:.0f} % lower than from scratch on {WANTED} of {len(nearest)} targets. By the "
        f"means this is so on {_named(so_low)}. By the 95 % interval of four − {1 - GOAL:g} × scratch it is shown on "
        f"{_named(shown)}, and ruled out on {_named(missed)}. **{verdict}**",
    ]


def _named(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _ranks(ranks: Ranks, sources: Mapping[str, str]) -> list[str]:
    rows = [["target", "model", "MMD²", "95 % of resamples", "p", "within its own data"]]
    for (target, way), models in ranks.items():
        if way != "rank":
            continue
        for m in models:
            own = " (its own set)" if sources[m["model"]] == target else ""
            low, high = m["interval"]
            rows.append(
                [
                    target,
                    m["model"] + own,
                    f"{m['mmd2']:.4f}",
                    f"{low:.4f} to {high:.4f}",
                    f"{m['p']:.3f}",
                    f"{m['yardstick']:.4f}",
                ]
            )
    return ["## Distances", SPACE, table(rows)]


def _pairs(found: Found, ranks: Ranks) -> list[str]:
    rows = [["target", "source", "MMD²", *WAYS.values()]]
    for target, way in ranks:
        if way != "rank":
            continue
        for m in ranks[target, way]:
            cells = [found.get((target, m["model"], way), {}) for way in WAYS]
            if any(cells):
                rows.append([target, m["model"], f"{m['mmd2']:.4f}", *map(_mean, cells)])
    return ["## All pairs", table(rows)]


def _correlation(found: Found, ranks: Ranks) -> list[str]:
    """MMD² against 1 - F1 of membranes, which all targets have, with the source as it is."""
    points: dict[str, list[tuple[float, float]]] = {}  # of each target
    groups: list[list[tuple[float, float]]] = []  # the sources of one target and shift
    rows = [["target", "shift", "source", "MMD²", "1 − F1"]]
    for (target, way), models in ranks.items():
        shift = way.partition("-")[2]
        group = []
        for m in models:
            for entry in found.get((target, m["model"], shift or "zero"), {}).values():
                group.append((m["mmd2"], 1 - entry["membranes"]["f1"]))
                rows.append([target, shift, m["model"], f"{m['mmd2']:.4f}", f"{group[-1][1]:.3f}"])
        points.setdefault(target, []).extend(group)
        groups += [sorted(group)] if len(group) > 1 else []
    points = {target: of for target, of in points.items() if len(of) > 2}
    if not points:
        return []
    rhos, mean, p = _within(points)
    best = sum(group[0][1] <= min(b for _, b in group) for group in groups)
    chance = sum(1 / len(group) for group in groups)
    listed = ", ".join(f"{name} {rhos[name]:.2f} ({len(of)} points)" for name, of in points.items())
    text = (
        f"Spearman's correlation of MMD² with 1 − F1 of membranes, by target: {listed}. Their mean, weighted by points, is "
        f"{mean:.2f}, p = {p:.3f} ({PERMUTATIONS:,} permutations within the targets). The points are only {len(points)} "
        "volumes and shifted versions of them, so they are worth less than their number suggests. Of the targets and shifts "
        f"with several sources, the nearest source was the best on {best} of {len(groups)}; a source picked at random would be "
        f"the best on {chance:.1f}."
    )
    return [
        "## Does the distance predict the loss?",
        "The source as it is, without training.",
        table(rows),
        text,
    ]


def _within(points: Mapping[str, list[tuple[float, float]]]) -> tuple[dict[str, float], float, float]:
    """Spearman's rho of each group, their mean by points, and its p when x is permuted within groups."""
    rng = np.random.default_rng(0)
    rhos = {}
    null = np.zeros(PERMUTATIONS)
    for name, pairs in points.items():
        x, y = (_standing(np.array(values)) for values in zip(*pairs, strict=True))
        rhos[name] = float(x @ y) / len(pairs)
        null += rng.permuted(np.tile(x, (PERMUTATIONS, 1)), axis=1) @ y
    total = sum(map(len, points.values()))
    mean = sum(rho * len(points[name]) for name, rho in rhos.items()) / total
    exceeding = int((np.abs(null / total) >= abs(mean) - 1e-9).sum())
    return rhos, mean, (1 + exceeding) / (1 + PERMUTATIONS)


def _standing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, with a mean of 0 and a standard deviation of 1."""
    ranks: NDArray[np.float64] = stats.zscore(stats.rankdata(values))
    return ranks


def _rules(found: Found, nearest: Mapping[str, str]) -> list[str]:
    rows = [["target", *RULES.values()]]
    compared = {}
    for target, source in nearest.items():
        cells = {name: found.get((target, source, way), {}) for way, name in RULES.items()}
        if sum(map(bool, cells.values())) > 1:
            rows.append([target, *map(_mean, cells.values())])
            compared[target] = cells
    if not compared:
        return ["## Which patches", "The rules of choosing patches have not been compared yet."]
    same = [
        f"`{a}` and `{b}`"
        for a, b in combinations(RULES.values(), 2)
        if all(_alike(cells[a], cells[b]) for cells in compared.values())
    ]
    text = SEEDS + "".join(
        f" {pair} gave identical figures in every run: here they are the same choice." for pair in same
    )
    return [
        "## Which patches",
        "Loss after training on four patches chosen by each rule.",
        table(rows),
        text,
    ]


def _alike(ours: dict[str, Entry], theirs: dict[str, Entry]) -> bool:
    """The same seeds were run, and their figures are equal: training is exact, so the patches were the same."""
    figures = [
        {seed: {k: v for k, v in entry.items() if k != "made"} for seed, entry in entries.items()}
        for entries in (ours, theirs)
    ]
    return bool(ours) and figures[0] == figures[1]
