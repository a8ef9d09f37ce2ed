"""MMD² against its definition, against a closed form, and on one domain twice."""

from __future__ import annotations

import numpy as np
import pytest

from connectoscope.adaptation.mmd import compare, median_distance, mmd2


def by_definition(source, target, sigma):
    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * sigma**2))

    m, n = len(source), len(target)
    ss = sum(k(source[i], source[j]) for i in range(m) for j in range(m) if i != j)
    tt = sum(k(target[i], target[j]) for i in range(n) for j in range(n) if i != j)
    st = sum(k(a, b) for a in source for b in target)
    return ss / (m * (m - 1)) + tt / (n * (n - 1)) - 2 * st / (m * n)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (7, 12), (20, 5)])
def test_it_is_the_double_sum(m, n):
    rng = np.random.default_rng(m)
    source, target = rng.normal(0, 1, (m, 3)), rng.normal(0.7, 2, (n, 3))
    pooled = np.concatenate([source, target])
    distances = [np.linalg.norm(a - b) for i, a in enumerate(pooled) for b in pooled[:i]]
    sigma = median_distance(pooled)
    assert sigma == pytest.approx(np.median(distances))
    assert mmd2(source, target) == pytest.approx(by_definition(source, target, sigma), abs=1e-6)
    assert mmd2(source, target, 0.5) == pytest.approx(by_definition(source, target, 0.5), abs=1e-6)


def test_two_gaussians_are_as_far_apart_as_the_closed_form_says():
    # E k = (1 + 2v/σ²)^(-d/2) within one of variance v per axis; between means μ apart and variances v, w:
    # (1 + (v + w)/σ²)^(-d/2) exp(-|μ|² / (2 (σ² + v + w))).
    d, mean, v, w, sigma = 4, 0.8, 1.0, 2.25, 2.0
    s2 = sigma**2

    def expected(a, b, shift):
        total = a + b
        return (1 + total / s2) ** (-d / 2) * np.exp(-d * shift**2 / (2 * (s2 + total)))

    wanted = expected(v, v, 0) + expected(w, w, 0) - 2 * expected(v, w, mean)
    rng = np.random.default_rng(0)
    found = [
        mmd2(rng.normal(0, v**0.5, (400, d)), rng.normal(mean, w**0.5, (300, d)), sigma) for _ in range(40)
    ]
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(wanted, abs=4 * error)
    assert error < 0.05 * wanted


def test_one_domain_twice_is_no_distance():
    rng = np.random.default_rng(1)
    runs = [compare(rng.normal(0, 1, (60, 5)), rng.normal(0, 1, (50, 5)), seed=s) for s in range(40)]
    assert np.mean([r.mmd2 <= r.null for r in runs]) > 0.85  # 95 % of them do
    assert np.mean([r.p for r in runs]) == pytest.approx(0.5, abs=0.15)  # p is even under the null
    assert np.mean([r.mmd2 for r in runs]) == pytest.approx(0, abs=0.01)  # unbiased


def test_two_domains_are_told_apart_and_the_interval_holds_the_distance():
    rng = np.random.default_rng(2)
    near = compare(rng.normal(0, 1, (200, 5)), rng.normal(0.3, 1, (200, 5)))
    far = compare(rng.normal(0, 1, (200, 5)), rng.normal(1.0, 1, (200, 5)))
    assert near.p < 0.01
    assert 0 < near.mmd2 < near.interval[1] < far.interval[0]
    for distance in (near, far):
        assert distance.interval[0] < distance.mmd2 < distance.interval[1]


def test_the_seed_decides_and_float16_will_do():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (64, 8)).astype(np.float16), rng.normal(0, 1, (64, 8)).astype(np.float16)
    assert compare(a, b, seed=5) == compare(a, b, seed=5)
    assert compare(a, b, seed=5) != compare(a, b, seed=6)
    constant = np.ones((8, 3))
    assert compare(constant, constant).mmd2 == pytest.approx(0, abs=1e-6)
