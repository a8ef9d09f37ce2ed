"""Which model was trained on what looks most like a volume (arXiv 2503.06196: MMD² predicts which source transfers best).

All candidates are compared with the same vectors of the target in the common space, with one bandwidth, so that their
distances can be compared; in the own spaces every candidate embeds the target itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from connectoscope.adaptation.mmd import Distance, compare, median_distance, mmd2
from connectoscope.errors import UserError
from connectoscope.zoo import Bundle

Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Ranked:
    """A candidate: how far it is, and how far two halves of its own training data are from each other."""

    model: str
    distance: Distance
    yardstick: float


def rank(
    sources: Mapping[str, Vectors],
    targets: Mapping[str, Vectors],
    *,
    bandwidth: float | None = None,
    seed: int = 0,
) -> list[Ranked]:
    """Candidates by MMD², nearest first; of equals by name.

    Args:
        sources: Of each model, (m, features): its training data, halves from different places.
        targets: Of each model, (n, features): the target, embedded by the network that made its source.
        bandwidth: Of all comparisons; None: the median distance of each pooled pair.
    """
    ranked = []
    for name, source in sources.items():
        distance = compare(source, targets[name], bandwidth=bandwidth, seed=seed)
        half = len(source) // 2
        yardstick = mmd2(source[:half], source[half:], distance.bandwidth)
        ranked.append(Ranked(name, distance, yardstick))
    return sorted(ranked, key=lambda r: (r.distance.mmd2, r.model))


def pooled_bandwidth(sources: Mapping[str, Vectors], target: Vectors, most: int = 2048) -> float:
    """One σ for all candidates: the median distance of all pairs of vectors; of an even selection where they are many."""
    pooled = np.concatenate([*sources.values(), target])
    return median_distance(pooled[:: -(-len(pooled) // most)])


def domain_map(sets: Mapping[str, Vectors]) -> dict[str, NDArray[np.float64]]:
    """Points (n, 2) of each set on the two main axes of all of them together (PCA)."""
    pooled = np.concatenate(list(sets.values())).astype(np.float64)
    centred = pooled - pooled.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, :-3:-1]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)  # one sign
    points = np.split(centred @ axes, np.cumsum([len(v) for v in sets.values()])[:-1])
    return dict(zip(sets, points, strict=True))


def check_common_output(bundles: Sequence[Bundle]) -> None:
    """Models that are compared must make the same thing.

    Raises:
        UserError: no output is common to all of them.
    """
    names = [{o.name for o in b.card.outputs} for b in bundles]
    if not set.intersection(*names):
        told = "; ".join(
            f"'{b.card.name}' makes {', '.join(sorted(n))}" for b, n in zip(bundles, names, strict=True)
        )
        raise UserError(f"these models have no output in common, so none can replace another: {told}")
