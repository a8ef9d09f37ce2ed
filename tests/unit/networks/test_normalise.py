"""Percentiles of the grid, by one rule for training and inference."""

from __future__ import annotations

import numpy as np
import pytest

from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, normalise, sample_boxes
from connectoscope.volumes.geometry import Box


def test_small_grids_are_read_whole() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 40, 50), np.uint8)
    assert intensity_range(lambda box: image[box.slices], image.shape, 1, 99) == tuple(
        np.percentile(image, (1, 99))
    )


def test_large_grids_are_sampled_evenly_and_clipped() -> None:
    boxes = list(sample_boxes((40, 10_000, 20_000)))
    assert len(boxes) == 64
    assert all(Box.of((40, 10_000, 20_000)).contains(box) for box in boxes)
    assert boxes[0] == Box((0, 1218, 2468), (37, 1282, 2532))


def test_range_is_mapped_around_zero() -> None:
    values = normalise(np.array([10, 20, 30, 255], np.uint8), 10, 30)
    np.testing.assert_allclose(values, [-0.5, 0.0, 0.5, 1.0])
    assert values.dtype == np.float32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((2, 4, 4), 7, np.uint8), "constant"),
        (np.array([[[7.0, 7.000001, 7.0]]], np.float32), "constant"),  # 7, resampled
        (np.array([[[1, np.nan, 3]]], np.float32), "not numbers"),
        (np.full((1, 1, 3), np.nan, np.float32), "^100 % of the sampled voxels are not numbers"),
    ],
)
def test_nothing_to_normalise(image: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        intensity_range(lambda box: image[box.slices], image.shape, 1, 99)


def test_a_nearly_constant_grid_falls_back_to_its_extremes() -> None:
    image = np.zeros((1, 100, 100), np.uint8)
    image[0, 0, 0] = 9
    assert intensity_range(lambda box: image[box.slices], image.shape, 1, 99) == (0.0, 9.0)


def test_a_small_range_far_from_zero_counts() -> None:
    image = np.arange(60000, 60011, dtype=np.uint16).reshape(1, 1, 11)
    low, high = intensity_range(lambda box: image[box.slices], image.shape, 1, 99)
    assert 60000 <= low < high <= 60010
    assert np.ptp(normalise(image, low, high)) > 1
