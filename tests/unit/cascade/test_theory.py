"""Proposition 1 and its generalisation against the values of the specification, and against simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.cascade.theory import Rates, expect


def independent_prevalences(p: float, covers) -> tuple[float, ...]:
    """π_k = 1 - (1 - p)^M_k, where the cells of level 0 are independent; finest first."""
    return tuple(1 - (1 - p) ** m for m in covers)


@pytest.mark.parametrize(
    ("p", "fpr1", "tpr1", "fpr0", "tpr0", "expected"),
    [
        (0.01, 0.05, 0.95, 0.02, 0.90, (0.855, 0.002223, 0.11953, 0.2445)),
        (0.05, 0.10, 0.97, 0.05, 0.90, (0.873, 0.018122, 0.39282, 0.5178)),
        (0.002, 0.2, 0.99, 0.01, 0.95, (0.9405, 0.00211, 0.21255, 0.3376)),
    ],
)
def test_two_levels_give_the_values_of_the_paper(p, fpr1, tpr1, fpr0, tpr0, expected):
    covers = (1, 8)
    result = expect([Rates(tpr0, fpr0), Rates(tpr1, fpr1)], independent_prevalences(p, covers), covers)
    assert (result.tpr, result.fpr, result.calls[0], result.relative_time) == pytest.approx(
        expected, rel=5e-4
    )
    # Proposition 1 spelled out
    none = (1 - p) ** 7
    assert result.fpr == pytest.approx(fpr0 * (tpr1 * (1 - none) + fpr1 * none))
    assert result.calls[0] == pytest.approx(tpr1 * (1 - (1 - p) ** 8) + fpr1 * (1 - p) ** 8)


def test_clustered_objects_cost_less():
    result = expect([Rates(0.90, 0.02), Rates(0.95, 0.05)], (0.01, 0.035), (1, 8))
    assert result.relative_time == pytest.approx(0.2065, abs=5e-5)


@pytest.mark.parametrize(("p", "three", "two"), [(0.001, 0.0410, 0.1822), (0.01, 0.1651, 0.2445)])
def test_a_third_level(p, three, two):
    rates = [Rates(0.95, 0.05)] * 3
    for count, time in ((3, three), (2, two)):
        covers = (1, 8, 64)[:count]
        result = expect(rates[:count], independent_prevalences(p, covers), covers)
        assert result.relative_time == pytest.approx(time, abs=6e-5)
        assert result.tpr == pytest.approx(0.95**count)


def test_a_perfect_gate_leaves_the_floor():
    prevalences = independent_prevalences(0.01, (1, 8))
    result = expect([Rates(1, 0), Rates(1, 0)], prevalences, (1, 8))
    assert result.relative_time == pytest.approx(1 / 8 + prevalences[1])
    assert result.precision == 1


def test_one_level_is_the_detector_itself():
    result = expect([Rates(0.9, 0.02, 3.0)], (0.1,), (1,))
    assert (result.tpr, result.fpr, result.calls, result.time) == (0.9, pytest.approx(0.02), (1.0,), 3.0)
    assert result.precision == pytest.approx(0.09 / (0.09 + 0.018))


@st.composite
def cascades(draw):
    levels = draw(st.integers(2, 4))
    branching = [draw(st.sampled_from([4, 8])) for _ in range(levels - 1)]
    rates = [Rates(draw(st.floats(0.7, 1)), draw(st.floats(0, 0.3))) for _ in range(levels)]
    return branching, rates, draw(st.floats(0.005, 0.1)), draw(st.booleans()), draw(st.integers(0, 2**31))


@given(cascades())
@settings(max_examples=25, deadline=None)
def test_simulated_cascades_agree(drawn):
    """Calls and rates of a simulated cascade lie within five standard errors, also where labels cluster."""
    branching, rates, p, clustered, seed = drawn
    rng = np.random.default_rng(seed)
    covers = [1, *np.cumprod(branching).tolist()]
    roots = max(400_000 // covers[-1], 50)
    n = roots * covers[-1]
    if clustered:  # runs of neighbours share their fate, mostly
        fate = np.repeat(rng.random(-(-n // branching[0])) < 3 * p, branching[0])[:n]
        labels = fate & (rng.random(n) < 0.4)
    else:
        labels = rng.random(n) < p
    truth = [labels.reshape(-1, m).any(1) for m in covers]
    if not labels.any():
        return
    reached = np.ones(roots, bool)
    calls = [0] * len(covers)
    called = reached
    for k in range(len(covers) - 1, -1, -1):
        if k < len(covers) - 1:
            reached = np.repeat(called, covers[k + 1] // covers[k])
        calls[k] = int(reached.sum())
        chance = np.where(truth[k], rates[k].tpr, rates[k].fpr)
        called = reached & (rng.random(len(reached)) < chance)
    result = expect(rates, [float(t.mean()) for t in truth], covers)
    # neighbours under one root stand and fall together, so a root is the unit of the error
    for k, count in enumerate(calls):
        spread = math.sqrt(max(result.calls[k] * n, 1) * covers[-1] / covers[k])
        assert abs(count - result.calls[k] * n) <= 5 * spread + 3
    positives = int(labels.sum())
    error = 5 * math.sqrt(covers[-1] / positives) / 2 + 3 / positives
    assert abs(int((called & labels).sum()) / positives - result.tpr) <= error


@pytest.mark.parametrize(
    ("levels", "prevalences", "covers"),
    [
        ([Rates(1, 0)], (0.1, 0.2), (1,)),
        ([Rates(1, 0), Rates(1, 0)], (0.2, 0.1), (1, 8)),
        ([Rates(1, 0), Rates(1, 0)], (0.1, 0.2), (2, 8)),
        ([Rates(1, 0), Rates(1, 0)], (0.1, 1.2), (1, 8)),
        ([], (), ()),
    ],
)
def test_impossible_fields_are_refused(levels, prevalences, covers):
    with pytest.raises(ValueError, match=r"prevalence|covers"):
        expect(levels, prevalences, covers)


@pytest.mark.parametrize("bad", [(1.1, 0, 1), (0.5, -0.1, 1), (0.5, 0.5, -1)])
def test_impossible_rates_are_refused(bad):
    with pytest.raises(ValueError, match="rates"):
        Rates(*bad)
