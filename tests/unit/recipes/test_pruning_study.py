"""The bookkeeping of the study of pruning: objects by block, thresholds from other folds, paired intervals."""

from __future__ import annotations

import numpy as np
import pytest
from pruning_report import Scores, bootstrap, f1, paired_t
from pruning_scores import BLOCKS, FLOOR, THRESHOLDS, candidates, objects

SIDE = 64
LARGE = int(np.ceil(FLOOR ** (1 / 3))) + 1  # side of a cube above the size floor


def cubes(*corners):
    volume = np.zeros((LARGE, SIDE, SIDE), bool)
    for y, x in corners:
        volume[:, y : y + LARGE, x : x + LARGE] = True
    return volume


def test_objects_are_counted_in_the_block_of_their_middle():
    truth = cubes((2, 2), (40, 40))
    p = (cubes((2, 4)) * 200 + cubes((20, 50)) * 150).astype(np.uint8)
    counts = {key: np.array(blocks) for key, blocks in objects(p, truth).items()}
    assert len(counts) == 2 * len(THRESHOLDS)
    side = SIDE // BLOCKS
    first, missed, vain = ((c // side) * BLOCKS + d // side for c, d in ((5, 5), (43, 43), (23, 53)))
    assert counts["any-128"][first].tolist() == [1, 0, 0]
    assert counts["any-128"][missed].tolist() == [0, 0, 1]
    assert counts["any-128"][vain].tolist() == [0, 1, 0]
    assert counts["any-179"].sum(0).tolist() == [1, 0, 1]
    assert counts["any-230"].sum(0).tolist() == [0, 0, 2]


def test_what_is_too_small_is_no_object():
    p = np.zeros((LARGE, SIDE, SIDE), np.uint8)
    p[0, :2, :2] = 255
    assert np.array(objects(p, cubes((2, 2)))["any-26"]).sum(0).tolist() == [0, 0, 1]


def test_candidates_are_ranked_by_their_mean():
    p = (cubes((2, 2)) * 200 + cubes((20, 50)) * 100).astype(np.uint8)
    found = candidates(p, cubes((2, 2), (40, 40)))
    assert found == {"ranked": [[200.0, True], [100.0, False]], "true": 2}


def entry(tp, fp, fn, level):
    """A run whose objects are best at the threshold of index ``level``."""
    counts = {}
    for kind in ("any", "iou"):
        for index, threshold in enumerate(THRESHOLDS):
            row = [tp, fp, fn] if index == level else [0, fp, fn + tp]
            counts[f"{kind}-{threshold}"] = [row, [0, 0, 0]]
    histograms = {name: [[1] * 256, [2] * 255 + [tp]] for name in ("synapses", "mitochondria", "boundary")}
    return {"objects": counts, "macs": 1.0, "histograms": histograms, "candidates": {"ranked": [], "true": 1}}


def found(*levels, tp=8):
    return {("a", fold, fold): entry(tp, 2, 2, level) for fold, level in enumerate(levels)}


def test_the_threshold_of_a_fold_comes_from_the_two_others():
    same = Scores(found(3, 3, 3), "a")
    assert same.f1("any") == pytest.approx(2 * 24 / (2 * 24 + 6 + 6))
    odd = Scores(found(3, 3, 5), "a")  # its own best would be 5, which is not asked
    assert odd.blocks["any"][0].sum(0).tolist() == [
        16,
        6,
        14,
    ]  # fold 2 is scored at 3, where it finds nothing
    assert f1(np.array([0, 0, 0])) == 0


def test_an_arm_does_not_differ_from_itself():
    one = Scores(found(3, 3, 3), "a")
    assert bootstrap(one, one) == (0.0, 0.0, 0.0)
    assert paired_t(one, one) == (0.0, 0.0, 0.0)
    value, low, high = bootstrap(one)
    assert low <= value <= high
