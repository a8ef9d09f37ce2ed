"""Matching of points against every possible pairing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectoscope.evaluation.objects import Matches
from connectoscope.evaluation.points import match_points

POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=5)


def most_pairs(found: np.ndarray, true: np.ndarray, within: float) -> int:
    """By trying all injections of the smaller set into the larger."""
    few, many = sorted((found, true), key=len)
    best = 0
    for chosen in itertools.permutations(range(len(many)), len(few)):
        gaps = [np.linalg.norm(few[i] - many[k]) for i, k in enumerate(chosen)]
        best = max(best, sum(gap <= within for gap in gaps))
    return best


@given(POINTS, POINTS, st.sampled_from([0.5, 1.1, 1.5, 2.5]))
def test_as_many_pairs_as_any_pairing_has(found, true, within) -> None:
    score = match_points(found, true, within)
    found, true = (np.array(p, float).reshape(-1, 3) for p in (found, true))
    assert score.tp == most_pairs(found, true, within)
    assert (score.tp + score.fp, score.tp + score.fn) == (len(found), len(true))


def test_a_point_counts_once_and_the_nearest_is_given_up_for_one_more_pair() -> None:
    assert match_points([[0, 0, 0], [0, 0, 1]], [[0, 0, 0]], 5) == Matches(1, 1, 0)
    places = [[0, 100 * i, round(0.65 * i, 2)] for i in range(200)]
    others = [[z, y, round(x + 6.5, 2)] for z, y, x in places]  # exactly as far as may be, but for floats
    assert match_points(1000 * np.array(places), 1000 * np.array(others), 6500).tp == 200
    # Nearest first would pair 4 with 3 and leave 0 and 8 alone.
    assert match_points([[0, 0, 4], [0, 0, 0]], [[0, 0, 3], [0, 0, 8]], 4) == Matches(2, 0, 0)


def test_ratios() -> None:
    score = Matches(tp=6, fp=2, fn=4)
    assert (score.precision, score.recall) == (0.75, 0.6)
    assert score.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    nothing = match_points([], [], 10)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)
    assert match_points([], [[1, 2, 3]], 10).f1 == 0
