"""What the study of pruning counts of a prediction: objects by block of the image, and candidates by rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.evaluation.objects import matched_pairs
from connectoscope.evaluation.partitions import Contingency
from connectoscope.segmentation.components import local_labels

FLOOR = 1e6 / (47.5 * 18.4 * 18.4)  # voxels of the smallest object that counts: 10⁶ nm³
THRESHOLDS = (26, 51, 77, 102, 128, 153, 179, 204, 230, 242)  # of 255, at which objects are scored
CANDIDATES = 64  # of 255, from which on objects are ranked by their mean probability
BLOCKS = 4  # a held-out image is cut into 4 x 4 blocks, which the bootstrap draws


def large(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Objects under the size floor become background."""
    return np.where(np.bincount(labels.ravel())[labels] >= FLOOR, labels, 0).astype(np.uint32)


def true_objects(truth: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Pieces of synapses within the held-out sections, also the smallest."""
    return local_labels(truth.astype(np.uint8), 1)


def objects(p: NDArray[np.uint8], truth: NDArray[np.bool_]) -> dict[str, list[list[int]]]:
    """Found, found in vain and missed in each block of the image, by ``any``/``iou`` (0.3) and threshold."""
    true = true_objects(truth)
    counts = {}
    for threshold in THRESHOLDS:
        found = large(local_labels(p, threshold))
        table = Contingency.of(found, true)
        for kind, iou in (("any", 0.0), ("iou", 0.3)):
            pairs = matched_pairs(table, iou)
            blocks = np.zeros((BLOCKS * BLOCKS, 3), np.int64)
            hit, called = {t for _, t in pairs}, {f for f, _ in pairs}
            for label, block in _blocks(true).items():
                blocks[block, 0 if label in hit else 2] += 1
            for label, block in _blocks(found).items():
                blocks[block, 1] += label not in called
            counts[f"{kind}-{threshold}"] = blocks.tolist()
    return counts


def candidates(p: NDArray[np.uint8], truth: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean probability of each object at a low threshold, and whether it is a synapse; number of synapses."""
    true = true_objects(truth)
    found = large(local_labels(p, CANDIDATES))
    right = {f for f, _ in matched_pairs(Contingency.of(found, true))}
    ids = [int(i) for i in np.unique(found) if i]
    return {
        "ranked": [[round(float(p[found == i].mean()), 2), i in right] for i in ids],
        "true": int(true.max()),
    }


def _blocks(labels: NDArray[np.uint32]) -> dict[int, int]:
    """In which block of the image, cut into BLOCKS x BLOCKS, the middle of each object lies."""
    sides = [n // BLOCKS for n in labels.shape[1:]]
    result = {}
    for label in np.unique(labels[labels > 0]):
        _, y, x = (int(np.median(axis)) for axis in np.nonzero(labels == label))
        result[int(label)] = (y // sides[0]) * BLOCKS + x // sides[1]
    return result
