"""Pyramids: which levels, and how one is made from a finer one."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np

from connectoscope.volumes.geometry import Float3, Index3

Array = np.ndarray[Any, Any]

_ALIKE = 1.4  # axes whose voxel sizes differ by less than this are halved together


def pyramid_factors(shape: Index3, scale: Float3, *, smallest: int = 128) -> tuple[Index3, ...]:
    """Factor (z, y, x) of each level relative to level 0; the first is (1, 1, 1).

    The finest axes are halved, so that voxels become isotropic first: sections of 40 x 4 x 4 nm keep their z until
    y and x are nearly as coarse. Ends when no axis is longer than ``smallest`` voxels.

    Raises:
        ValueError: a voxel size is not above 0.
    """
    if not all(size > 0 for size in scale):
        raise ValueError(f"voxel sizes must be above 0, got {scale}")
    factors: list[Index3] = [(1, 1, 1)]
    while True:
        factor = factors[-1]
        lengths = [-(-n // f) for n, f in zip(shape, factor, strict=True)]
        if max(lengths) <= smallest:
            return tuple(factors)
        sizes = [s * f for s, f in zip(scale, factor, strict=True)]
        finest = min(s for s, n in zip(sizes, lengths, strict=True) if n > 1)
        z, y, x = (
            f * 2 if n > 1 and s <= _ALIKE * finest else f
            for f, n, s in zip(factor, lengths, sizes, strict=True)
        )
        factors.append((z, y, x))


def downsample(array: Array, factor: Index3, *, labels: bool) -> Array:
    """``array`` (..., z, y, x) coarser by ``factor`` (z, y, x); same dtype, lengths rounded up.

    Images: mean of each window, integers rounded half up. Labels: the most frequent value, the smallest of equals.
    Windows cut by the border take what exists.
    """
    lead = array.ndim - 3
    for axis, f in enumerate(factor, start=lead):
        length = array.shape[axis]
        whole = length - length % f
        if 0 < whole < length:
            main, rest = np.split(array, [whole], axis=axis)
            return np.concatenate(
                [downsample(main, factor, labels=labels), downsample(rest, factor, labels=labels)], axis=axis
            )
    z, y, x = (min(f, n) for f, n in zip(factor, array.shape[lead:], strict=True))
    if (z, y, x) == (1, 1, 1):
        return array.copy()
    windows = [array[..., i::z, j::y, k::x] for i in range(z) for j in range(y) for k in range(x)]
    return _mode(windows) if labels else _mean(windows)


def _mean(windows: list[Array]) -> Array:
    dtype, n = windows[0].dtype, len(windows)
    if dtype.kind == "f":
        total: Array = np.zeros(windows[0].shape, dtype=np.float64)
        for window in windows:
            total += window
        return (total / n).astype(dtype)
    if dtype.itemsize == 8:  # the sum may overflow: add whole parts and remainders apart
        whole, part = np.zeros(windows[0].shape, dtype=dtype), np.zeros(windows[0].shape, dtype=dtype)
        for window in windows:
            whole += window // dtype.type(n)
            part += window % dtype.type(n)
        return cast(Array, whole + (2 * part + dtype.type(n)) // dtype.type(2 * n))
    wide = np.dtype(np.int64 if dtype.itemsize == 4 or n > 2**14 else np.int32)
    total = np.full(windows[0].shape, n // 2, dtype=wide)
    for window in windows:
        total += window
    # Half up for odd n too: floor((sum + n // 2) / n) differs from floor(sum / n + 1/2) for no whole sum.
    return (total // n).astype(dtype)


def _mode(windows: list[Array]) -> Array:
    values = np.sort(np.stack(windows), axis=0)
    best, run = values[0].copy(), np.ones(values[0].shape, dtype=np.int32)
    longest = run.copy()
    for previous, current in itertools.pairwise(values):
        run = np.where(current == previous, run + 1, 1)
        better = run > longest
        best[better], longest[better] = current[better], run[better]
    return cast(Array, best)
