"""Calibration against closed forms, brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from connectoscope.errors import UserError
from connectoscope.xray2em.calibration import (
    NOMINAL,
    auroc,
    calibration,
    coverage,
    expected_calibration_error,
    scale_factor,
    sparsification,
    sparsification_area,
)

RNG = np.random.default_rng(0)
SIGMA = RNG.uniform(0.5, 3, (40, 50, 50))
ERROR = SIGMA * RNG.normal(size=SIGMA.shape)


def test_nominal_coverages_are_the_nineteen() -> None:
    np.testing.assert_allclose(NOMINAL, np.linspace(0.05, 0.95, 19))


def test_a_calibrated_sigma_is_found_so() -> None:
    found = calibration(ERROR, SIGMA)
    assert found.scale == pytest.approx(1, abs=0.01)
    assert found.ece < 0.005
    assert found.coverage == pytest.approx({0.5: 0.5, 0.8: 0.8, 0.95: 0.95}, abs=0.01)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_sigma_has_the_error_of_theory(factor: float) -> None:
    observed = 2 * stats.norm.cdf(factor * stats.norm.ppf((1 + NOMINAL) / 2)) - 1
    np.testing.assert_allclose(coverage(ERROR, factor * SIGMA, NOMINAL), observed, atol=0.01)
    expected = np.abs(observed - NOMINAL).mean()
    assert expected_calibration_error(ERROR, factor * SIGMA) == pytest.approx(expected, abs=0.005)
    scale = scale_factor(ERROR, factor * SIGMA)
    assert scale == pytest.approx(1 / factor, rel=0.01)
    assert expected_calibration_error(ERROR, scale * factor * SIGMA) < 0.005


def test_the_scale_is_the_most_likely_one() -> None:
    best = scale_factor(ERROR, SIGMA)
    likelihood = [stats.norm.logpdf(ERROR, scale=s * SIGMA).sum() for s in (0.98 * best, best, 1.02 * best)]
    assert likelihood[1] == max(likelihood)


def test_coverage_by_counting() -> None:
    error, sigma = np.array([0.0, 1.0, -2.0, 5.0]), np.array([1.0, 1.0, 1.0, 10.0])
    for p in (0.1, 0.5, 0.9, 0.97):
        inside = np.abs(error) <= stats.norm.ppf((1 + p) / 2) * sigma
        assert coverage(error, sigma, np.array([p]))[0] == inside.mean()


def test_sparsification_by_hand() -> None:
    error, sigma = np.array([4.0, -1.0, 2.0, 1.0]), np.array([0.1, 0.2, 0.4, 0.3])
    np.testing.assert_allclose(sparsification(error, sigma, 4), np.array([2, 2, 2.5, 4]) / 2)
    np.testing.assert_allclose(sparsification(error, np.abs(error), 4), np.array([2, 4 / 3, 1, 1]) / 2)
    assert sparsification_area(error, sigma, 4) == pytest.approx((0 + 1 / 3 + 0.75 + 1.5) / 4)
    assert sparsification_area(error, np.abs(error)) == 0
    assert sparsification_area(np.zeros(5), np.ones(5)) == 0
    random = RNG.permutation(SIGMA.ravel()).reshape(SIGMA.shape)
    assert sparsification_area(ERROR, SIGMA) < 0.8 * sparsification_area(ERROR, random)


def test_auroc_is_scikit_learns_with_ties() -> None:
    score = RNG.integers(0, 20, 3000).astype(float)
    wrong = RNG.random(3000) < score / 40
    assert auroc(score, wrong) == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)


def test_what_cannot_be_judged() -> None:
    one = np.ones(3)
    with pytest.raises(UserError, match="one shape"):
        calibration(one, np.ones(4))
    with pytest.raises(UserError, match="above 0"):
        calibration(one, np.zeros(3))
    with pytest.raises(UserError, match="finite"):
        calibration(np.array([np.nan]), np.ones(1))
    with pytest.raises(UserError, match="only one"):
        auroc(one, np.ones(3, bool))
