"""The planner against populations whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from connectoscope.cascade.pilot import STRATA, Pilot, Scored, _stratum_of
from connectoscope.cascade.planner import Planner, one_level, upper_bound


def population(seed, cells=2000, separation=4.0, share=0.05):
    """Cells of level 1 with a score that separates positive ones; returns scores and positive children."""
    rng = np.random.default_rng(seed)
    positive = rng.random(cells) < share
    scores = rng.normal(0, 1, cells) + separation * positive
    return scores, np.where(positive, rng.integers(1, 5, cells), 0), rng


def pilot_of(
    scores, children_positive, rng, per_stratum=12, fine=0.1, gate=0.002, covers=(1, 2, 2), scored_cells=None
):
    cells, n = len(scores), scored_cells or len(scores)
    some = np.sort(rng.choice(cells, n, replace=False)) if n < cells else np.arange(n)
    scores, children_positive = scores[some], children_positive[some]
    rung = SimpleNamespace(factor=covers, covers=int(np.prod(covers)), made=False)
    scored = Scored(rung, SimpleNamespace(name="g"), np.stack([np.arange(n)] * 3, 1), scores, cells, gate)
    strata = _stratum_of([scored])
    units = np.concatenate(
        [rng.permutation(np.flatnonzero(strata == s))[:per_stratum] for s in range(len(STRATA))]
    )
    taken, sizes = np.bincount(strata[units], minlength=6), np.bincount(strata, minlength=6)
    return Pilot(
        gates=(scored,), children=np.full(n, 4), strata=strata, level1_cells=cells, level0_cells=4 * cells,
        units=units, weights=(sizes / np.maximum(taken, 1))[strata[units]] * cells / n,
        positives=children_positive[units], fine_seconds=fine, one_level_seconds=4 * cells * fine,
        startup_seconds=1.0, seconds=1.0,
    )  # fmt: skip


def best(planner):
    return min((o for o in planner.options() if o.gates), key=lambda o: o.seconds)


def test_a_good_gate_is_taken_with_a_threshold_that_keeps_the_floor():
    scores, positives, rng = population(0, separation=6)
    planner = Planner(pilot_of(scores, positives, rng, per_stratum=400), 0.95, 0)
    option = best(planner)
    kept = positives[scores >= option.thresholds[0]].sum() / positives.sum()
    assert option.enough
    assert kept >= 0.95
    assert option.calls[0] == 4 * (scores >= option.thresholds[0]).sum()
    assert option.calls[1] == len(scores)
    assert option.seconds == pytest.approx(1 + 0.1 * option.calls[0] + 0.002 * option.calls[1])
    assert option.seconds < 0.25 * planner.pilot.one_level_seconds


@pytest.mark.parametrize(
    ("separation", "per_stratum", "threshold"),
    [(3, 25, 1.5), (2, 60, 0.5), (2, 60, None), (3, 60, None), (4, 60, None), (2, 300, None), (3, 300, None)],
)
def test_the_interval_holds_the_true_recall(separation, per_stratum, threshold):
    """Also of the threshold that the planner chooses, for which the seen cells look better than the others are."""
    inside, broken = 0, 0
    for seed in range(40):
        scores, positives, rng = population(seed, separation=separation)
        planner = Planner(pilot_of(scores, positives, rng, per_stratum), 0.95, seed)
        option = best(planner) if threshold is None else planner.weigh(planner.pilot.gates, [threshold])
        truth = positives[scores >= option.thresholds[0]].sum() / positives.sum()
        low, high = option.recall_interval
        assert 0 <= low <= high <= 1
        inside += low <= truth <= high
        broken += option.enough and truth < 0.95
    assert inside >= 36  # 95 % of 40 is 38
    assert broken <= 10  # promised with odds of 3 to 1


@pytest.mark.parametrize(("share", "per_stratum"), [(0.005, 5000), (0.005, 800), (0.01, 300), (0.02, 5000)])
def test_the_interval_knows_of_cells_that_were_never_scored(share, per_stratum):
    """Gates score a part of a large volume, and the pilot may have run on all of that."""
    inside, promised, broken = 0, 0, 0
    for seed in range(40):
        scores, positives, rng = population(seed, cells=50_000, separation=3, share=share)
        pilot = pilot_of(scores, positives, rng, per_stratum, scored_cells=4096)
        option = best(Planner(pilot, 0.95, seed))
        truth = positives[scores >= option.thresholds[0]].sum() / positives.sum()
        low, high = option.recall_interval
        assert high > low
        inside += low <= truth <= high
        promised += option.enough
        broken += option.enough and truth < 0.95
    assert inside >= 36
    assert broken <= 1 + promised / 4  # odds of 3 to 1


def test_few_positives_lower_the_threshold_and_widen_the_interval():
    scores, positives, rng = population(3, separation=6, share=0.004)
    planner = Planner(pilot_of(scores, positives, rng, per_stratum=8), 0.98, 0)
    option = best(planner)
    seen = planner.pilot.positives > 0
    assert not option.enough
    assert option.thresholds[0] <= scores[planner.pilot.units[seen]].min()
    assert option.recall_interval[0] < 0.98
    assert option.recall_interval[1] == 1.0


def test_a_useless_gate_saves_nothing():
    scores, positives, rng = population(1, separation=0, share=0.3)
    planner = Planner(pilot_of(scores, positives, rng, per_stratum=40), 0.98, 0)
    assert best(planner).seconds > 0.9 * one_level(planner.pilot).seconds


def test_the_closed_forms_agree_with_the_counted_calls():
    scores, positives, rng = population(2)
    planner = Planner(pilot_of(scores, positives, rng, per_stratum=40), 0.95, 0)
    option = best(planner)
    theory = planner.theory(option)
    assert theory["calls"] == pytest.approx(option.calls, rel=1e-6)
    assert theory["prevalences"][1] == pytest.approx((positives > 0).mean(), rel=0.25)
    assert theory["tpr"][1] == pytest.approx(option.recall)


def test_no_positive_cell_bounds_the_prevalence():
    scores, _, rng = population(0)
    pilot = pilot_of(scores, np.zeros(len(scores), int), rng)
    assert 3 / (4 * len(pilot.units)) <= upper_bound(pilot) <= 1


def test_what_pays_is_offered_before_what_keeps_the_floor_for_sure_and_is_slow():
    """With few positive cells the only sure threshold passes nearly everything."""
    scores, positives, rng = population(3, cells=4000, separation=8, share=0.01)
    planner = Planner(pilot_of(scores, positives, rng, per_stratum=15), 0.98, 3)
    option = min((o for o in planner.options() if o.gates), key=planner.rank)
    assert not option.enough
    assert planner.pays(option)
    assert option.recall == 1
    assert planner.rank(option) < planner.rank(one_level(planner.pilot))
