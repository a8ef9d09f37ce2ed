"""Classical gates: cheap scores of a coarse cell, higher where an object is more likely.

They need no training, and are often enough for fluorescence, where what is looked for is bright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from connectoscope.volumes.geometry import Index3

Score = Callable[[NDArray[np.float32], Index3], float]


class Gate(Protocol):
    """Scores cells of one coarse level."""

    @property
    def name(self) -> str: ...

    @property
    def halo(self) -> Index3:
        """Coarse voxels that are read around a cell."""
        ...

    def __call__(self, cell: NDArray[np.float32]) -> float:
        """The score of a cell: intensities (core + 2 halo) as they are read, float32, finite."""
        ...


@dataclass(frozen=True)
class ClassicalGate:
    """A score by formula."""

    name: str
    halo: Index3
    score: Score

    def __call__(self, cell: NDArray[np.float32]) -> float:
        return self.score(cell, self.halo)


def _inner(cell: NDArray[np.float32], halo: Index3) -> NDArray[np.float32]:
    return cell[tuple(slice(h, n - h) for h, n in zip(halo, cell.shape, strict=True))]


def _maximum(cell: NDArray[np.float32], halo: Index3) -> float:
    return float(_inner(cell, halo).max())


def _minimum(cell: NDArray[np.float32], halo: Index3) -> float:
    return -float(_inner(cell, halo).min())


def _variance(cell: NDArray[np.float32], halo: Index3) -> float:
    return float(_inner(cell, halo).var(dtype=np.float64))


def _dog(cell: NDArray[np.float32], halo: Index3) -> float:
    """Largest difference of Gaussians (1 and 2.5 voxels, in the plane; sections may be thick)."""
    from scipy import ndimage

    fine = ndimage.gaussian_filter(cell, (0, 1.0, 1.0), truncate=2.0)
    wide = ndimage.gaussian_filter(cell, (0, 2.5, 2.5), truncate=2.0)
    return float(_inner(fine - wide, halo).max())


CLASSICAL = (
    ClassicalGate("maximum", (0, 0, 0), _maximum),
    ClassicalGate("minimum", (0, 0, 0), _minimum),
    ClassicalGate("variance", (0, 0, 0), _variance),
    ClassicalGate("dog", (0, 5, 5), _dog),
)
