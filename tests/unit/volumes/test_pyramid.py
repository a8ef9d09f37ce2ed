"""Pyramids against a plain loop over windows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from connectoscope.volumes import downsample, pyramid_factors

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
FACTORS = st.tuples(*[st.integers(1, 4)] * 3)
INTEGERS = st.sampled_from([np.dtype(t) for t in ("u1", "i1", "u2", "i4", "u4", "u8", "i8")])


def windows(array: np.ndarray, factor: tuple[int, int, int]):
    """Index in the coarse array and the fine window under it."""
    shape = [-(-n // f) for n, f in zip(array.shape, factor, strict=True)]
    for index in np.ndindex(*shape):
        yield index, array[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor, strict=True))]


@given(st.data(), FACTORS, INTEGERS)
def test_mean_of_integers_is_exact_and_rounds_half_up(data, factor, dtype) -> None:
    array = data.draw(hnp.arrays(dtype, SHAPES))
    coarse = downsample(array, factor, labels=False)
    assert coarse.dtype == dtype
    for index, window in windows(array, factor):
        total, n = sum(int(v) for v in window.ravel()), window.size
        assert int(coarse[index]) == (2 * total + n) // (2 * n)


@given(st.data(), FACTORS)
def test_mode_is_the_most_frequent_label_and_the_smallest_of_equals(data, factor) -> None:
    array = data.draw(hnp.arrays(np.uint64, SHAPES, elements=st.sampled_from([0, 1, 2, 2**63])))
    coarse = downsample(array, factor, labels=True)
    for index, window in windows(array, factor):
        values, counts = np.unique(window, return_counts=True)
        assert coarse[index] == values[np.argmax(counts)]


def test_float_mean_keeps_dtype_and_leading_axes() -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    coarse = downsample(array, (1, 2, 2), labels=False)
    assert coarse.shape == (2, 3, 2, 3)
    assert coarse.dtype == np.float32
    assert coarse[0, 0, 0, 0] == pytest.approx(np.mean([0, 1, 5, 6]))
    assert coarse[1, 2, 0, 2] == pytest.approx(np.mean([array[1, 2, 0, 4], array[1, 2, 1, 4]]))


def test_finest_axes_are_halved_first() -> None:
    assert pyramid_factors((100, 4096, 4096), (40, 4, 4)) == (
        (1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16), (4, 32, 32),
    )  # fmt: skip
    assert pyramid_factors((256, 256, 256), (10, 10, 10)) == ((1, 1, 1), (2, 2, 2))
    assert pyramid_factors((3, 64, 64), (40, 4, 4)) == ((1, 1, 1),)


@given(st.tuples(*[st.integers(1, 10**6)] * 3), st.tuples(*[st.floats(0.1, 1e4)] * 3))
def test_factors_end_small_and_each_is_a_multiple_of_the_one_before(shape, scale) -> None:
    factors = pyramid_factors(shape, scale)
    assert factors[0] == (1, 1, 1)
    assert max(-(-n // f) for n, f in zip(shape, factors[-1], strict=True)) <= 128
    for before, after in pairwise(factors):
        assert before != after
        assert all(b % a == 0 and b // a in (1, 2) for a, b in zip(before, after, strict=True))
