"""docs/studies/neuroadda.md from the runs that ``adaptation.py`` keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Row = list[str]
Found = dict[tuple[str, str, str], list[dict[str, Any]]]
WAYS = {
    "zero": "as it is",
    "statistics": "new statistics",
    "four": "four patches",
    "scratch": "from scratch",
}
PERMUTATIONS = 10_000


def report(results: Path, nearest: Mapping[str, str], sources: Mapping[str, str], missing: int) -> str:
    """The page; what has not been measured yet is left out, and ``missing`` says how many runs these are."""
    found: Found = {}
    ranks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*.json")):
        target, source, way, _ = path.stem.split("--")
        entry = json.loads(path.read_text(encoding="utf-8"))
        if source == "all":
            ranks[target, way] = entry["models"]
        else:
            found.setdefault((target, source, way), []).append(entry)
    parts = [
        "# New tissue: the nearest model and four patches, or from scratch",
        "Written by `make study-adaptation` from the runs in studies/results/adaptation"
        + (f"; **{missing} runs are still missing**" if missing else "")
        + ". The loss is what the target is judged "
        "by: variation of information (bits) where neurons are labelled, 1 − F1 of membranes elsewhere. Thresholds are from the "
        "choosing parts, losses of the reporting parts (docs/data.md). Four patches are chosen by `adapt suggest` in the "
        "training part; from scratch is the same architecture on the same patches for as many updates (150), learning at 2e-3 as "
        "recipes do. Mean over seeds (how many in brackets) ± standard deviation.",
        *_gain(found, nearest),
        *_ranks(ranks, sources),
        *_pairs(found, ranks),
        *_correlation(found, ranks),
        *_rules(found, nearest),
    ]
    return "\n\n".join(parts) + "\n"


def loss(entry: dict[str, Any]) -> float:
    return float(entry["neurons"]["vi"] if "neurons" in entry else 1 - entry["membranes"]["f1"])


def _table(rows: list[Row]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def _mean(entries: list[dict[str, Any]]) -> str:
    if not entries:
        return ""
    values = [loss(e) for e in entries]
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)})"


def _gain(found: Found, nearest: Mapping[str, str]) -> list[str]:
    rows = [["target", "nearest other source", *WAYS.values(), "less than from scratch"]]
    held = 0
    done = 0
    for target, source in nearest.items():
        cells = [found.get((target, source, way), []) for way in WAYS]
        four, scratch = cells[2], cells[3]
        less = ""
        if four and scratch:
            share = 1 - np.mean([loss(e) for e in four]) / np.mean([loss(e) for e in scratch])
            done += 1
            held += share >= 0.25
            less = f"{100 * share:.0f} %"
        rows.append([target, source, *map(_mean, cells), less])
    text = (
        "The aim was a loss 25 % lower than from scratch, or more, on three of four targets: "
        f"it holds on {held} of {done} measured."
    )
    return ["## Nearest source, four patches", _table(rows), text]


def _ranks(ranks: dict[tuple[str, str], list[dict[str, Any]]], sources: Mapping[str, str]) -> list[str]:
    rows = [["target", "model", "MMD²", "95 % of resamples", "p", "two halves of its own data"]]
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
    return ["## Distances", "Of the training part of each target, in the common space.", _table(rows)]


def _pairs(found: Found, ranks: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    rows = [["target", "source", "MMD²", *WAYS.values()]]
    for target, way in ranks:
        if way != "rank":
            continue
        for m in ranks[target, way]:
            cells = [found.get((target, m["model"], way), []) for way in WAYS]
            if any(cells):
                rows.append([target, m["model"], f"{m['mmd2']:.4f}", *map(_mean, cells)])
    return ["## All pairs", _table(rows)]


def _correlation(found: Found, ranks: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """MMD² against 1 - F1 of membranes, which all targets have, with the source as it is."""
    points: list[tuple[str, float, float]] = []
    rows = [["target", "shift", "source", "MMD²", "1 − F1"]]
    for (target, way), models in ranks.items():
        shift = way.partition("-")[2]
        for m in models:
            for entry in found.get((target, m["model"], shift or "zero"), []):
                value = 1 - entry["membranes"]["f1"]
                points.append((f"{target} {shift}", m["mmd2"], value))
                rows.append([target, shift, m["model"], f"{m['mmd2']:.4f}", f"{value:.3f}"])
    if len(points) < 4:
        return []
    x, y = (np.array([p[k] for p in points]) for k in (1, 2))
    found_rho = float(stats.spearmanr(x, y).statistic)
    rng = np.random.default_rng(0)
    null = [stats.spearmanr(rng.permutation(x), y).statistic for _ in range(PERMUTATIONS)]
    p = (1 + sum(abs(v) >= abs(found_rho) for v in null)) / (1 + PERMUTATIONS)
    within = []
    for name in dict.fromkeys(p[0] for p in points):
        group = sorted((a, b) for n, a, b in points if n == name)
        if len(group) > 1:
            within.append(group[0][1] <= min(b for _, b in group))
    text = (
        f"Spearman's correlation of MMD² with 1 − F1 of membranes over these {len(points)}: {found_rho:.2f}, p {p:.4f} "
        f"({PERMUTATIONS:,} permutations). The nearest source was the best on {sum(within)} of {len(within)} targets and shifts."
    )
    return ["## Does the distance tell?", "The source as it is.", _table(rows), text]


def _rules(found: Found, nearest: Mapping[str, str]) -> list[str]:
    names = {"four": "median-mean"} | {r: r for r in ("top-median", "random", "highest", "k-centre")}
    rows = [["target", *names.values()]]
    for target, source in nearest.items():
        cells = [found.get((target, source, way), []) for way in names]
        if sum(map(bool, cells)) > 1:
            rows.append([target, *map(_mean, cells)])
    if len(rows) == 1:
        return ["## Which patches", "The rules of choosing patches have not been compared yet."]
    return ["## Which patches", "Loss after training on four patches that each rule chose.", _table(rows)]
