"""docs/studies/cascade.md from the measurements that ``cascade.py`` keeps."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from kept import Row, origin, table

HEAD = ["time", "less", "precision", "recall", "F1", "of one level's", "level 0 read", "memory (MiB)"]


def report(results: Path, names: list[str], rates: Path, sources: dict[str, str]) -> str:
    """The page; what has not been measured yet is left out.

    Args:
        rates: The benchmark that says how fast the engine of today segments.
        sources: What would make the results today.
    """
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))
    }
    machines = sorted({entry["machine"] for entry in found.values()})
    parts = [
        "# Cascades: what they save, what they miss, and whether that was known beforehand",
        "Written by `make study-cascade` from the measurements in studies/results/cascade. Times are of whole commands, "
        "without planning. The sparse volumes are synthetic (`recipes/make_sparse.py`): tissue, noise and objects are real, "
        "the places of the objects are random and therefore known. They show how a cascade compares with one level, and "
        "say nothing about a brain. A *region* is a box of the volume that a cascade accepts or rejects as a whole.",
        "On " + "; ".join(machines) + ".",
        origin(found, sources),
        *_time(found, names),
        *_then(found, names, rates),
        *_predictions(found, names),
        *_large(found),
        *_counter_example(found),
        *_peer(found),
        *_real(found),
    ]
    return "\n\n".join(parts) + "\n"


def _gates(gates: list[dict[str, Any]]) -> str:
    return ", ".join(f"{g['gate']} at {'×'.join(map(str, g['factor']))}" for g in gates)


def _old(entry: dict[str, Any]) -> bool:
    """Measured on 21 November 2026, before results said what made them."""
    return "made" not in entry


def _seeds(found: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [entry for key, entry in found.items() if key.startswith(f"{name}-seed")]


def _row(what: str, entry: dict[str, Any], one: dict[str, Any]) -> Row:
    score = entry["score"]
    return [
        what,
        f"{entry['wall']:.1f} s",
        f"{100 * (1 - entry['wall'] / one['wall']):.0f} %",
        f"{score['precision']:.3f}",
        f"{score['recall']:.3f}",
        f"{score['f1']:.3f}",
        f"{score['f1'] / one['score']['f1']:.3f}",
        f"{100 * entry.get('read', 1.0):.1f} %",
        f"{entry['memory']:.0f}" if "memory" in entry else "",
    ]


def _span(rows: list[Row]) -> Row:
    """One row of several: each cell from its least to its greatest value."""
    cells = []
    for column in zip(*rows, strict=True):
        values = sorted(set(column), key=lambda cell: float(cell.split()[0]) if cell else 0.0)
        cells.append(values[0] if len(values) == 1 else f"{values[0].split()[0]}–{values[-1]}")
    return cells


def _time(found: dict[str, Any], names: list[str]) -> list[str]:
    rows = [["volume and way", *HEAD]]
    for name in names:
        if f"{name}-one" not in found:
            continue
        one = found[f"{name}-one"]
        shape = " × ".join(map(str, one["shape"]))
        rows.append(_row(f"**{name}** ({shape}), one level", one, one))
        if f"{name}-two" in found:
            two = found[f"{name}-two"]
            rows.append(_row(f"two levels: {_gates(two['gates'])}", two, one))
        pilots = _seeds(found, name)
        if pilots:
            gates = " or ".join(dict.fromkeys(_gates(entry["gates"]) or "one level" for entry in pilots))
            span = _span([_row("", entry, one)[1:] for entry in pilots])
            rows.append([f"as planned by {len(pilots)} pilots (least to most): {gates}", *span])
            worst = min(range(len(pilots)), key=lambda i: pilots[i]["score"]["f1"])
            score = pilots[worst]["score"]
            if score["f1"] < one["score"]["f1"] - 1e-9:
                rows.append(_row(f"of these the worst, pilot {worst}", pilots[worst], one))
    return [
        "## Time and what is kept",
        "Objects compared with the known truth: cells matched one to one within 10 µm, synapses by overlap as in `evaluate`.",
        table(rows),
    ]


def _then(found: dict[str, Any], names: list[str], rates: Path) -> list[str]:
    """That old times are of a slower engine, and what today's would make of one level."""
    ones = {name: found[f"{name}-one"] for name in names if f"{name}-one" in found}
    if not any(_old(entry) for entry in found.values()):
        return []
    parts = [
        "**Results that do not record what made them are from 21 November 2026: all their times, here and below, with one "
        "level and with cascades, were measured with the program of that day, and synapses with version 1 of synapse-vnc.**"
    ]
    rate = {row[0]: row[1] for row in json.loads(rates.read_text(encoding="utf-8"))["rows"]}
    now = float(rate["engine, megavoxels/s of volume"])
    for name, one in ones.items():
        if _old(one) and "synapses" in one["objects"]:
            size, then = math.prod(one["shape"]) / 1e6, one["wall"]
            pilots = [entry["wall"] for entry in _seeds(found, name)]
            parts.append(
                f"{name} took {then:.0f} s with one level then, {size / then:.2f} megavoxels/s, and {min(pilots):.0f} to "
                f"{max(pilots):.0f} s with cascades. In docs/benchmarks.md, which names machine and precision, today's engine "
                f"segments another volume at {now:.2f} megavoxels/s; at that rate one level would take about {size / now:.0f} "
                "s. How long cascades take now has not been measured: do not take the share saved then for what is saved "
                "today."
            )
    return [" ".join(parts)]


def _predictions(found: dict[str, Any], names: list[str]) -> list[str]:
    rows = [
        [
            "volume, pilot",
            "calls of level 0",
            "error",
            "seconds",
            "error",
            "recall of regions",
            "inside",
            "planning",
        ]
    ]
    calls, seconds, inside, outside = [], [], [], []
    for name in names:
        for seed, entry in enumerate(_seeds(found, name)):
            if not entry["pays"]:
                rows.append([f"{name}, {seed}", "does not pay"] + [""] * 6)
                continue
            low, high = entry["recall_interval"]
            predicted, measured = entry["calls_predicted"][0], entry["calls"][0]
            calls.append(abs(predicted / measured - 1))
            seconds.append(abs(entry["seconds_predicted"] / entry["seconds"] - 1))
            inside.append(low - 1e-9 <= entry["recall"] <= high + 1e-9)
            if _old(entry) and not inside[-1]:
                outside.append(f"{name}, {seed}")
            rows.append(
                [
                    f"{name}, {seed}",
                    f"{predicted:.0f} / {measured} of {entry['cells']}, {entry['woken']} woken",
                    f"{100 * calls[-1]:.1f} %",
                    f"{entry['seconds_predicted']:.1f} / {entry['seconds']:.1f}",
                    f"{100 * seconds[-1]:.1f} %",
                    f"{low:.3f}–{high:.3f} / {entry['recall']:.3f}",
                    "yes" if inside[-1] else "no",
                    f"{entry['plan_wall']:.0f} s",
                ]
            )
    if not calls:
        return []
    old = any(_old(entry) for name in names for entry in _seeds(found, name))
    narrow = f" ({'; '.join(outside)})" if outside else ""
    since = (
        "The plans of results that do not record what made them are older than today's interval, which allows, stratum by "
        f"stratum, for everything that a pilot does not see. Theirs was too narrow{narrow}; today's is wider, and fewer plans "
        "promise their recall."
    )
    return [
        "## Predicted and measured",
        "Predicted / measured. Recall is the share of the regions in which one level finds something that the cascade "
        "accepts, not counting woken ones.",
        table(rows),
        f"Median error of the calls {100 * statistics.median(calls):.1f} %, of the seconds "
        f"{100 * statistics.median(seconds):.1f} %; the recall was inside its interval {sum(inside)} of {len(inside)} times.",
        *([since] if old else []),
    ]


def _large(found: dict[str, Any]) -> list[str]:
    if not {"cells-2048-one", "cells-2048-seed0"} <= found.keys():
        return []
    one, entry = found["cells-2048-one"], found["cells-2048-seed0"]
    rows = [["way", *HEAD]]
    rows += [_row("one level", one, one), _row(f"as planned: {_gates(entry['gates'])}", entry, one)]
    shape = " × ".join(map(str, one["shape"]))
    return [f"## Two gigavoxels, once ({shape})", table(rows), f"Planning took {entry['plan_wall']:.0f} s."]


def _counter_example(found: dict[str, Any]) -> list[str]:
    if "vnc" not in found:
        return []
    v = found["vnc"]
    return [
        "## Where a cascade is not worth it: `vnc_sstem`",
        f"The planner of that day, which called regions cells: “{v['verdict']}”",
        f"The best cascade, used nevertheless: {v['cascade_wall']:.0f} s instead of "
        f"{v['one_level_wall']:.0f} s, {v['cascade_calls']} of {v['cells']} regions computed, "
        f"{v['objects'][1]['synapses']} instead of {v['objects'][0]['synapses']} synapses.",
    ]


def _peer(found: dict[str, Any]) -> list[str]:
    if "cellfinder" not in found:
        return []
    peer, one = found["cellfinder"], found["cellfinder"]["ours"]
    cascade = found.get("cells-256-seed0")
    rows = [["detector", "time", "peak memory (MiB)", "precision", "recall", "F1"]]
    memory = peer["memory"] * (1e6 / 2**20 if _old(peer) else 1)  # old ones in millions of bytes
    theirs = peer | {"wall": peer["seconds"], "memory": memory}
    entries = [
        (f"cellfinder {peer['version']}, detection stage, one run", theirs),
        ("one level, median of three", one),
    ]
    if cascade:
        entries.append(("cascade, pilot 0, median of three, measured separately", cascade))
    for what, entry in entries:
        score = entry["score"]
        rows.append(
            [what, f"{entry['wall']:.1f} s", f"{entry['memory']:.0f}"]
            + [f"{score[k]:.3f}" for k in ("precision", "recall", "f1")]
        )
    return [
        "## Compared with cellfinder",
        "Only its detection stage: the weights of its classifier, which removes false positives, have to be downloaded, which "
        "was not possible here. Default settings; known truth of cells-256, one to one within 10 µm. Its time does not "
        f"include the {peer['compile_seconds']:.0f} s that numba spends compiling once in each process.",
        table(rows),
        "Memory is not measured in the same way: cellfinder's is that of its process and workers together, with shared pages "
        "counted once, sampled five times a second; ours is the largest resident memory of the process that computes, without "
        "the command that waits for it.",
        "**The comparison favours ours.** The cells of cells-256 were cut out of planes 0–7 and 22–29 of `lightsheet_cells` "
        "where a difference of Gaussians of 4 and 8 µm has a peak over 250: a filter of our detector's kind (4.0 and 6.5 µm at "
        "its diameter of 14 µm) picked what counts as a cell, and on nearly the same planes (0–7 and 23–29) our diameter and "
        "threshold were chosen. cellfinder was not tuned: it looks for somata of 16 µm, its default, and no other "
        "diameter or threshold was tried here.",
    ]


def _real(found: dict[str, Any]) -> list[str]:
    if "lightsheet_cells" not in found:
        return []
    v = found["lightsheet_cells"]
    return [
        "## Real cells",
        f"Planes 10–19 of `lightsheet_cells`: {v['found']} of the {v['references']} cells that cellfinder reports there "
        f"({v['found'] / v['references']:.2f}), with {v['points']} points. How far to trust this: "
        "docs/guides/detect.md.",
    ]
