"""Metrics against scikit-learn, scikit-image and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import adapted_rand_error as skimage_are
from skimage.metrics import variation_of_information as skimage_vi
from sklearn.metrics import average_precision_score, f1_score

from connectoscope.evaluation.objects import Matches, match_objects
from connectoscope.evaluation.partitions import Contingency, adapted_rand_error, variation_of_information
from connectoscope.evaluation.voxels import histograms, precision_recall


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_average_precision_and_f1_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((4, 20, 20)) < rng.uniform(0.01, 0.9)
    truth[0, 0, 0] = True
    score = np.clip(rng.normal(120 + 40 * truth, 60), 0, 255).astype(np.uint8)
    curve = precision_recall(*histograms(score, truth))
    assert curve.average_precision == pytest.approx(
        average_precision_score(truth.ravel(), score.ravel()), abs=1e-12
    )
    best, threshold = curve.best()
    assert best == pytest.approx(f1_score(truth.ravel(), score.ravel() >= threshold), abs=1e-12)
    assert (
        best
        >= max(f1_score(truth.ravel(), score.ravel() >= t, zero_division=0) for t in range(0, 256, 16))
        - 1e-12
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_partition_scores_are_scikit_images(seed: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 6, (3, 8, 8))
    result = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 9, truth.shape)).astype(np.uint32)
    parts = zip(np.array_split(result, cuts, 1), np.array_split(truth, cuts, 1), strict=True)
    first, *rest = (Contingency.of(a, b) for a, b in parts)
    table = sum(rest, first)
    split, merge = variation_of_information(table)
    # scikit-image names them (H(b|a), H(a|b)) for (a, b): false splits of b, then false merges
    assert (split, merge) == pytest.approx(tuple(skimage_vi(truth, result)), abs=1e-9)
    error, _, _ = skimage_are(truth, result, ignore_labels=())
    assert adapted_rand_error(table) == pytest.approx(error, abs=1e-9)


def brute_force(result: np.ndarray, truth: np.ndarray, min_iou: float) -> Matches:
    """Largest matching by trying every order of the found objects."""
    from itertools import permutations

    found = [i for i in np.unique(result) if i]
    true = [i for i in np.unique(truth) if i]

    def fits(a: int, b: int) -> bool:
        common = ((result == a) & (truth == b)).sum()
        return bool(common > 0 and common >= min_iou * ((result == a) | (truth == b)).sum())

    def greedy(order: tuple[int, ...]) -> int:
        free, count = set(true), 0
        for a in order:
            hit = next((b for b in sorted(free) if fits(a, b)), None)
            if hit is not None:
                free.discard(hit)
                count += 1
        return count

    tp = max((greedy(order) for order in permutations(found)), default=0)
    return Matches(tp, len(found) - tp, len(true) - tp)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 0.3]))
def test_matching_is_brute_forces(seed: int, min_iou: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, (1, 4, 4))
    result = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, 5, truth.shape))
    assert match_objects(Contingency.of(result, truth), min_iou).tp >= brute_force(result, truth, min_iou).tp
    assert match_objects(Contingency.of(truth, truth), 1.0) == Matches(len(np.unique(truth[truth > 0])), 0, 0)


def test_one_found_object_over_two_true_ones_counts_once() -> None:
    truth = np.array([[[1, 1, 0, 2, 2, 0, 3]]])
    result = np.array([[[5, 5, 5, 5, 5, 0, 0]]])
    found = match_objects(Contingency.of(result, truth))
    assert found == Matches(1, 0, 2)
    assert found.f1 == pytest.approx(2 / 4)
    assert Matches(0, 0, 0).f1 is None


def test_matching_of_many_objects_takes_little_memory() -> None:
    count = 60_000  # a table of all by all would be 29 GB
    ids = np.arange(1, count + 1)
    truth = np.repeat(ids, 2)[None, None]
    result = np.roll(truth, 1)  # each over two true ones, so that all hang together in a ring
    apart = np.where(truth % 2, truth, 0)
    assert match_objects(Contingency.of(apart, truth)) == Matches(count // 2, 0, count // 2)
    assert match_objects(Contingency.of(result[..., :400], truth[..., :400])).tp == 200
