"""Label values that stand for no object."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.uint64(2**64 - 4)  # of an object; above it CREMI writes "transparent", "invalid" and "outside"


def without_nothing(labels: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Labels with 0 in place of values that say "nothing here", and how many voxels those are.

    These are negative values, and the highest three of uint64, with which CREMI marks background and what lies outside
    (cremi.org/data; a clefts file is full of them).
    """
    if labels.dtype.kind in "if":
        nothing = labels < 0
    elif labels.dtype == np.uint64:
        nothing = labels > _LARGEST
    else:
        return labels, 0
    count = int(np.count_nonzero(nothing))
    return (np.where(nothing, labels.dtype.type(0), labels), count) if count else (labels, 0)
