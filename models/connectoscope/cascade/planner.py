"""Choosing levels and thresholds: what pays, of that what surely keeps enough of what the fine detector finds, of that the
fastest.

Calls come from the share of cells that pass the gates, recall from the weighted pilot (each positive cell of level 0
counts once), its interval from what the strata of the pilot leave possible, which stays honest where no pilot cell was
lost. Time is T = a + Σ c_k N_k with costs measured here, reading included.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.cascade.pilot import Pilot, Scored
from connectoscope.cascade.theory import Rates, expect

DRAWS = 400
ODDS = 25  # percentile of the recall's distribution that must reach the floor: kept with odds of 3 to 1
THRESHOLDS = 24  # tried for each gate of a pair
_TINY = 1e-9  # a Beta distribution wants more than 0
GAIN = 0.9  # of the one-level time that a cascade must stay under to pay


@dataclass(frozen=True)
class Option:
    """One cascade, with what is expected of it.

    Attributes:
        gates, thresholds: Nearest level first; none is the one-level detector.
        calls: At each level of ``gates``, level 0 first.
    """

    gates: tuple[Scored, ...]
    thresholds: tuple[float, ...]
    calls: tuple[float, ...]
    seconds: float
    recall: float
    recall_interval: tuple[float, float]
    enough: bool


def one_level(pilot: Pilot) -> Option:
    return Option((), (), (pilot.level0_cells,), pilot.one_level_seconds, 1.0, (1.0, 1.0), True)


class Planner:
    """Weighs the cascades that a pilot allows.

    Args:
        pilot: With at least one positive cell.
        floor: Recall relative to the one-level detector that must be kept, 0 to 1.
        seed: Of what is drawn for the interval.
    """

    def __init__(self, pilot: Pilot, floor: float, seed: int) -> None:
        self.pilot, self.floor = pilot, floor
        hits = pilot.weights * pilot.positives
        seen = hits > 0
        self._units = pilot.units[seen]
        self._hits = hits[seen]
        self._seed = seed

    @property
    def effective_positives(self) -> float:
        """(Σw)² / Σw²: as many equally weighted positive cells would be as informative."""
        return float(self._hits.sum() ** 2 / (self._hits**2).sum()) if len(self._hits) else 0.0

    def options(self) -> list[Option]:
        """The best of each gate, and of each pair of the levels' best gates."""
        single = [self._best((scored,)) for scored in self.pilot.gates]
        best: dict[tuple[int, int, int], Option] = {}
        for option in single:
            factor = option.gates[0].rung.factor
            if factor not in best or self.rank(option) < self.rank(best[factor]):
                best[factor] = option
        pairs = [
            self._best((a.gates[0], b.gates[0]))
            for a, b in itertools.combinations(sorted(best.values(), key=lambda o: o.gates[0].rung.covers), 2)
        ]
        return [one_level(self.pilot), *single, *pairs]

    def curve(self, gates: Sequence[Scored]) -> list[tuple[float, float]]:
        """(time relative to one level, recall) over thresholds of one gate or pair, for the plot."""
        points = []
        for thresholds in self._grid(gates):
            option = self.weigh(gates, thresholds)
            points.append((option.seconds / self.pilot.one_level_seconds, option.recall))
        front: list[tuple[float, float]] = []
        for time, recall in sorted(points, key=lambda p: (p[0], -p[1])):
            if not front or recall > front[-1][1]:
                front.append((time, recall))
        return front

    def weigh(self, gates: Sequence[Scored], thresholds: Sequence[float]) -> Option:
        """What is expected of these thresholds."""
        pilot = self.pilot
        passes = [g.scores >= t for g, t in zip(gates, thresholds, strict=True)]
        calls: list[float] = []
        above = np.ones(len(pilot.children), bool)
        for gate, passed in zip(reversed(gates), reversed(passes), strict=True):
            calls.append(gate.cells * float(above.mean()))
            above = above & passed
        calls.append(pilot.level0_cells * float((above * pilot.children).sum() / pilot.children.sum()))
        calls.reverse()
        seconds = pilot.startup_seconds + pilot.fine_seconds * calls[0]
        seconds += sum(g.seconds * n for g, n in zip(gates, calls[1:], strict=True))
        kept = above[self._units]
        recall = float(self._hits[kept].sum() / self._hits.sum())
        low, odds = (float(v) for v in np.percentile(self._drawn_recall(above, lost=1.0), (2.5, ODDS)))
        high = float(np.percentile(self._drawn_recall(above, lost=0.5), 97.5))
        if kept.all():
            high = 1.0
        return Option(
            tuple(gates), tuple(thresholds), tuple(calls), seconds, recall, (low, high), odds >= self.floor
        )

    def _drawn_recall(self, above: NDArray[np.bool_], lost: float) -> NDArray[np.float64]:
        """What the recall may be, ``DRAWS`` times, when the units ``above`` are kept.

        In each stratum the number of positive units among those that the pilot did not see, scored or not, is drawn, with a
        share from the Beta distribution that the seen ones leave, kept and lost ones apart. Before that, half a positive unit
        was seen among the kept (Jeffreys) and ``lost`` of one among the lost, somewhere among the strata, the more likely the
        more of their units are unseen: what is overlooked lies where scores are low and one unit of the pilot stands for many.
        A whole one is the right doubt from below, since thresholds are put right above a lost one: what lies beyond the k-th
        of n has the share Beta(k, n + 1 - k) (Wilks 1941); half of one leaves room above.
        """
        pilot = self.pilot
        rng = np.random.default_rng(self._seed)
        strata = int(pilot.strata.max()) + 1
        each = float(pilot.positives[pilot.positives > 0].mean())
        found = []
        for side, before in ((above, 0.5), (~above, lost)):
            there = side[pilot.units]
            units, positives = pilot.units[there], pilot.positives[there]
            seen = np.bincount(pilot.strata[units], minlength=strata)
            scored = np.bincount(pilot.strata[side], minlength=strata)
            unseen = np.rint(scored * (pilot.level1_cells / len(pilot.children))).astype(np.int64) - seen
            hits = np.bincount(pilot.strata[units[positives > 0]], minlength=strata)
            prior = before * unseen / max(unseen.sum(), 1)
            share = rng.beta(np.maximum(hits + prior, _TINY), seen - hits + 0.5, size=(DRAWS, strata))
            found.append(positives.sum() + each * rng.binomial(unseen, share).sum(1))
        recall: NDArray[np.float64] = found[0] / (found[0] + found[1])
        return recall

    def _best(self, gates: tuple[Scored, ...]) -> Option:
        tried = [self.weigh(gates, thresholds) for thresholds in self._grid(gates)]
        # With few positive cells only what passes nearly everything keeps the floor for sure, and does not pay. Beside that:
        # nothing seen may be lost, and room is left below it.
        room = self.weigh(gates, [self._with_room(gate) for gate in gates])
        return min((*(option for option in tried if option.enough), room), key=self.rank)

    def rank(self, option: Option) -> tuple[bool, bool, float]:
        """The smaller the better: one that pays, then one that keeps the floor for sure, then the faster."""
        return not self.pays(option), not option.enough, option.seconds

    def pays(self, option: Option) -> bool:
        return option.seconds < GAIN * self.pilot.one_level_seconds

    def _grid(self, gates: Sequence[Scored]) -> list[tuple[float, ...]]:
        each = []
        for gate in gates:
            scores = np.unique(gate.scores[self._units])
            if len(gates) > 1 and len(scores) > THRESHOLDS:
                scores = np.quantile(scores, np.linspace(0, 1, THRESHOLDS) ** 2, method="nearest")
            each.append([float(s) for s in np.unique(scores)])
        return list(itertools.product(*each))

    def _with_room(self, gate: Scored) -> float:
        """Below the lowest positive cell by as many cells as make 3 of n positive ones."""
        lowest = float(gate.scores[self._units].min())
        share = float((gate.scores >= lowest).mean()) * (1 + 3 / len(self._units))
        return min(lowest, float(np.quantile(gate.scores, max(1 - share, 0.0))))

    def theory(self, option: Option) -> dict[str, Any]:
        """Prevalences and rates of the levels, level 0 first, and the calls that the closed forms give from them.

        β_k is the share of positive cells of level 0 that a gate passes among those that reach it; α_k follows from
        β_k, from π_k and from the share of all cells that reach the gate and pass.
        """
        pilot = self.pilot
        prevalences = self._prevalences(option.gates)
        reached = np.ones(len(pilot.children), bool)
        held = np.ones(len(self._units), bool)
        levels: list[Rates] = []
        for gate, threshold, prevalence in zip(
            reversed(option.gates), reversed(option.thresholds), reversed(prevalences[1:]), strict=True
        ):
            passed = reached & (gate.scores >= threshold)
            kept = passed[self._units]
            tpr = _share(self._hits[kept].sum(), self._hits[held].sum())
            positive = min(
                _share(prevalence * self._hits[held].sum() / self._hits.sum(), reached.mean()), 1.0
            )
            fpr = _share(_share(passed.sum(), reached.sum()) - positive * tpr, 1 - positive)
            levels.insert(0, Rates(tpr, float(np.clip(fpr, 0, 1)), gate.seconds))
            reached, held = passed, kept
        levels.insert(0, Rates(1.0, 0.0, pilot.fine_seconds))
        expected = expect(levels, prevalences, [1, *(g.rung.covers for g in option.gates)])
        return {
            "prevalences": prevalences,
            "tpr": [rates.tpr for rates in levels],
            "fpr": [rates.fpr for rates in levels],
            "calls": [n * pilot.level0_cells for n in expected.calls],
        }

    def _prevalences(self, gates: Sequence[Scored]) -> list[float]:
        """π_k, level 0 first: level 0 by weight; coarser ones from how often cells of level 1 are positive in each
        stratum of scores, so that clusters count as what they are.
        """
        pilot = self.pilot
        total = (pilot.weights * pilot.children[pilot.units]).sum()
        values = [float((pilot.weights * pilot.positives).sum() / total)]
        hits = np.bincount(pilot.strata[pilot.units], pilot.positives > 0, pilot.strata.max() + 1)
        seen = np.bincount(pilot.strata[pilot.units], minlength=pilot.strata.max() + 1)
        negative = np.log1p(-np.minimum(hits / np.maximum(seen, 1), 1 - 1e-9))[pilot.strata]
        nearest = min(gate.rung.covers for gate in pilot.gates)
        for gate in gates:
            _, group = np.unique(gate.above, return_inverse=True, axis=0)
            mean = np.bincount(group.ravel(), negative) / np.bincount(group.ravel())
            chance = -np.expm1(mean * gate.rung.covers / nearest)
            values.append(max(float(chance.mean()), values[-1]))
        return values


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else 0.0


def upper_bound(pilot: Pilot) -> float:
    """95 % upper bound of the prevalence of level 0 where no positive cell was seen: 3 / n, n weighted."""
    w = pilot.weights * pilot.children[pilot.units]
    effective: float = float(w.sum() ** 2 / (w**2).sum()) * float(pilot.children[pilot.units].mean())
    return min(3.0 / effective, 1.0)
