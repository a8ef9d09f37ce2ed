"""The selectivity-audience balance: how many connections a unit may have, from how often it is on.

Meirovitch, Yang, Lichtman, Shavit, "Budgeted Broadcast" (arXiv 2510.01263): maximising the coding entropy Σ H_b(a) under
a budget of traffic Σ a k gives log((1 - a) / a) = β k. Busy units get few connections, rare ones many. For a >= 1/2 that
gives k <= 0, so that, as in the authors' code, k = clip(d0 + log((1 - a) / a) / β, k_min, D), with d0 such that the
budget is met.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError

LOWEST = 1e-3  # on-rates are taken within [1e-3, 1 - 1e-3], where the log-odds are finite


def log_odds(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """log((1 - a) / a) of on-rates in [0, 1], which are clipped to [1e-3, 1 - 1e-3]; natural logarithm."""
    a = np.clip(rates, LOWEST, 1 - LOWEST)
    result: NDArray[np.float64] = np.log((1 - a) / a)
    return result


def degrees(
    rates: NDArray[np.float64], most: int, total: int, beta: float, least: int = 1
) -> NDArray[np.int64]:
    """Connections of each unit, (n,), whose sum is ``total`` exactly.

    d0 is found by bisection; the fractions that rounding leaves are given out by largest remainder (equal ones: the first).

    Args:
        rates: On-rates, (n,), 0 to 1.
        most: D, connections that a unit has when nothing is pruned.
        total: Budget of all units together.
        beta: Slope of the balance; greater than 0, larger is flatter.
        least: k_min.

    Raises:
        UserError: the budget is less than ``n * least`` or more than ``n * most``.
    """
    n = len(rates)
    low, high = n * min(least, most), n * most
    if not low <= total <= high:
        raise UserError(
            f"{total} connections of {high} cannot be kept: between {low} and {high} can, a density of "
            f"{low / high:.3g} to 1"
        )
    wanted = log_odds(rates) / beta
    floor = min(least, most)

    def at(offset: float) -> NDArray[np.float64]:
        return np.clip(offset + wanted, floor, most)

    below, above = floor - float(wanted.max()) - 1, most - float(wanted.min()) + 1
    for _ in range(200):
        middle = (below + above) / 2
        if at(middle).sum() < total:
            below = middle
        else:
            above = middle
    exact = at(above)
    kept = np.floor(exact + 1e-9).astype(np.int64)
    left = total - int(kept.sum())
    remainder = np.where(kept < most, exact - kept, -1.0)
    for unit in np.argsort(-remainder, kind="stable")[:left]:
        kept[unit] += 1
    return kept


def top(weights: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The ``counts[i]`` greatest of each row of ``weights`` (n, m), >= 0; equal ones: the first. (n, m) bool."""
    order = np.argsort(-weights, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(weights.shape[1]), order.shape), axis=1)
    kept: NDArray[np.bool_] = rank < counts[:, None]
    return kept


def coding_entropy(rates: NDArray[np.float64]) -> float:
    """Σ H_b(a) over units, bits; rates clipped to [1e-3, 1 - 1e-3]."""
    a = np.clip(rates, LOWEST, 1 - LOWEST)
    return float(-(a * np.log2(a) + (1 - a) * np.log2(1 - a)).sum())
