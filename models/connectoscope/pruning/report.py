"""What pruning did, as one HTML file that needs nothing else: the receipt, the balance, traffic by layer."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.networks.wiring import Wiring
from connectoscope.pruning.balance import log_odds
from connectoscope.pruning.masks import Masks, Rates, fan_out

WIDTH, HEIGHT, MARGIN = 460, 300, 46  # of a plot, pixels


def balance_line(degrees: NDArray[np.int64], rates: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and R² of k against log((1 - a) / a), by least squares; (0, 0) where either is constant."""
    x, y = log_odds(rates), degrees.astype(np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0, 0.0
    slope = float(np.cov(x, y, bias=True)[0, 1] / x.var())
    return slope, float(np.corrcoef(x, y)[0, 1] ** 2)


def report_html(
    title: str,
    facts: Mapping[str, Any],
    receipt: Sequence[Sequence[str]],
    wiring: Wiring,
    masks: Masks,
    rates: Rates,
) -> str:
    """The page.

    Args:
        facts: What was asked for, for the line under the title.
        receipt: Rows (what, before, after).
        masks: Of the prunable layers, as they were at the end.
        rates: On-rates by layer, at the end.
    """
    fans = fan_out(wiring, masks)
    layers = [
        ["layer", "units", "mean on-rate", "connections kept", "mean fan-out", "traffic", "slope", "R²"]
    ]
    for layer in wiring.layers:
        if layer.name not in rates:
            continue
        a = rates[layer.name]
        k = fans.get(layer.name)
        slope, r2 = balance_line(k, a) if k is not None else (0.0, 0.0)
        kept = f"{100 * masks[layer.name].mean():.0f} %" if layer.name in masks else "dense"
        layers.append(
            [layer.name, str(layer.outputs), f"{a.mean():.2f}", kept]
            + (
                ["", "", "", ""]
                if k is None
                else [f"{k.mean():.1f}", f"{(a * k).sum():.1f}", f"{slope:.2f}", f"{r2:.2f}"]
            )
        )
    points = [(float(x), float(y)) for s in fans for x, y in zip(log_odds(rates[s]), fans[s], strict=True)]
    asked = ", ".join(f"{k} {v}" for k, v in facts.items())
    return "\n".join(
        [
            "<!DOCTYPE html><html lang='en'><meta charset='utf-8'>",
            f"<title>{html.escape(title)}</title>",
            "<style>body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
            "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd}"
            "td:not(:first-child),th:not(:first-child){text-align:right;font-variant-numeric:tabular-nums}"
            "svg{background:#fafafa}</style>",
            f"<h1>{html.escape(title)}</h1><p>{html.escape(asked)}</p>",
            "<h2>Receipt</h2>",
            _table([["", "before", "after"], *receipt]),
            "<p>Accuracy is of the choosing planes of the recipe; time is of plain forward passes on this machine.</p>",
            "<h2>Selectivity and audience</h2>",
            "<p>Each dot is a unit: how many connections it sends, against how rarely it is on.</p>",
            _scatter(points, "log((1 − a) / a)", "fan-out"),
            _table(layers),
            "</html>",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return "<table>" + "".join(lines) + "</table>"


def _scatter(points: Sequence[tuple[float, float]], x: str, y: str) -> str:
    xs, ys = np.array(points).T
    low, high = (xs.min(), 0.0), (max(xs.max(), xs.min() + 1e-9), max(ys.max(), 1.0))

    def at(value: tuple[float, float]) -> tuple[float, float]:
        across, up = ((v - a) / (b - a) for v, a, b in zip(value, low, high, strict=True))
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    dots = "".join(
        "<circle cx='{:.1f}' cy='{:.1f}' r='2.5' fill='#1f77b4' fill-opacity='.6'/>".format(*at(p))
        for p in points
    )
    (left, bottom), (right, top) = at(low), at(high)
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' font-size='12' role='img'>"
        f"<path d='M{left} {top}V{bottom}H{right}' fill='none' stroke='#888'/>{dots}"
        f"<text x='{left}' y='{bottom + 16}'>{low[0]:.1f}</text>"
        f"<text x='{right}' y='{bottom + 16}' text-anchor='end'>{high[0]:.1f}</text>"
        f"<text x='{left - 6}' y='{bottom}' text-anchor='end'>0</text>"
        f"<text x='{left - 6}' y='{top + 4}' text-anchor='end'>{high[1]:.0f}</text>"
        f"<text x='{(left + right) / 2}' y='{HEIGHT - 8}' text-anchor='middle'>{x}</text>"
        f"<text x='{left}' y='{top - 14}'>{y}</text></svg>"
    )
