"""What a cascade saves and misses, in closed form (Athey, Sawmya, Shavit 2025, arXiv 2504.21598, Proposition 1).

Symbols of the paper, and their names here:

* a *cell* is the unit that is called positive or negative; a cell of level k covers M_k cells of level 0 (``covers``);
* p, the probability that a cell of level 0 holds an object; π_k (``prevalence``), the same of a cell of level k;
* β_k (``tpr``) and α_k (``fpr``), the true and false positive rates of the detector at level k;
* n, the number of cells of level 0. Calls and times here are per n.

The cascade calls all cells of the coarsest level, then the children of those called positive, down to level 0.
Predictions of different levels are taken as independent given the labels. Where they are not (the same texture fools
both), measure the rates of the finer level among the cells that the coarser one passed; the formulas then hold again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Rates:
    """A detector at one level: β_k and α_k, and the cost of one call (any unit, the same for all levels)."""

    tpr: float
    fpr: float
    cost: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.tpr <= 1 and 0 <= self.fpr <= 1 and self.cost >= 0):
            raise ValueError(f"rates must lie in 0-1 and the cost must not be negative, got {self}")


@dataclass(frozen=True)
class Expectation:
    """What a cascade does on average.

    Attributes:
        tpr: Share of the positive cells of level 0 that are called positive.
        fpr: Share of the negative ones that are.
        precision: Share of the positive calls that are right; 1 where nothing is called positive.
        calls: Calls per cell of level 0 at each level, finest first.
        time: Σ cost_k calls_k.
        relative_time: ``time`` over that of the finest detector on every cell.
    """

    tpr: float
    fpr: float
    precision: float
    calls: tuple[float, ...]
    time: float
    relative_time: float


def expect(levels: Sequence[Rates], prevalences: Sequence[float], covers: Sequence[int]) -> Expectation:
    """The averages of a cascade of any number of levels, for any label field, also a clustered one.

    With A the share of cells that are reached and positive and B that of those reached and negative, from
    A = π_K, B = 1 - π_K downwards with g = π_{k-1} / π_k:
    A ← β_k A g, B ← α_k B + β_k A_old (1 - g), calls_{k-1} = (A + B) n / M_{k-1}.

    Args:
        levels: Detectors, finest first.
        prevalences: π_k of each level, finest first; they do not fall towards coarser levels.
        covers: M_k of each level, finest first, beginning with 1.

    Raises:
        ValueError: when lengths differ, or prevalences or covers are impossible.
    """
    _check(levels, prevalences, covers)
    positive, negative = prevalences[-1], 1 - prevalences[-1]
    calls = [1 / covers[-1]]
    for k in range(len(levels) - 1, 0, -1):
        g = prevalences[k - 1] / prevalences[k] if prevalences[k] else 0.0
        passed = levels[k].tpr * positive
        positive, negative = passed * g, levels[k].fpr * negative + passed * (1 - g)
        calls.append((positive + negative) / covers[k - 1])
    calls.reverse()
    p = prevalences[0]
    tpr = math.prod(level.tpr for level in levels)
    false = levels[0].fpr * negative
    called = p * tpr + false
    time = sum(level.cost * n for level, n in zip(levels, calls, strict=True))
    return Expectation(
        tpr=tpr,
        fpr=false / (1 - p) if p < 1 else 0.0,
        precision=p * tpr / called if called else 1.0,
        calls=tuple(calls),
        time=time,
        relative_time=time / levels[0].cost if levels[0].cost else math.inf,
    )


def _check(levels: Sequence[Rates], prevalences: Sequence[float], covers: Sequence[int]) -> None:
    if not len(levels) == len(prevalences) == len(covers) or not levels:
        raise ValueError(
            f"a detector, a prevalence and a cover for each level, got {len(levels)}, {len(prevalences)}, {len(covers)}"
        )
    if covers[0] != 1 or any(b % a for a, b in pairwise(covers)):
        raise ValueError(f"covers must begin with 1 and divide each other, got {tuple(covers)}")
    for k in range(len(prevalences)):
        finer = prevalences[k - 1] if k else 0.0
        if not finer - 1e-12 <= prevalences[k] <= 1:
            raise ValueError(
                f"prevalences lie in 0-1 and do not fall towards coarser levels, got {tuple(prevalences)}"
            )
