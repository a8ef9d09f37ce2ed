"""How tissue is told from what is around it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from connectoscope.detection.tissue import choose_rule, coarse_grid, feature_of, valley
from connectoscope.errors import UserError
from connectoscope.volumes import open_volume

RNG = np.random.default_rng(0)


def test_two_humps_have_a_valley_between_and_one_has_none():
    both = np.concatenate([RNG.normal(0, 1, 9000), RNG.normal(10, 2, 90000)]).astype(np.float32)
    threshold, depth = valley(both)
    assert 3 < threshold < 5
    assert depth > 0.9
    assert valley(RNG.normal(0, 1, 50000).astype(np.float32))[1] < 0.5
    assert valley(np.full(100, 3, np.float32)) == (3.0, 0.0)


def test_fluorescence_is_told_by_brightness_and_em_by_texture():
    light = RNG.poisson(20, (12, 60, 60)).astype(np.float32)
    light[:, 20:] += RNG.poisson(400, (12, 40, 60))
    rule = choose_rule(coarse_grid(open_volume(light, voxel_size="5,4,4um")))
    assert (rule.feature, rule.depth > 0.5) == ("brightness", True)
    em = RNG.normal(128, 2, (12, 60, 60)).astype(np.float32)
    em[:, 20:] += RNG.normal(0, 30, (12, 40, 60))
    rule = choose_rule(coarse_grid(open_volume(em, voxel_size="40nm")))
    assert (rule.feature, rule.depth > 0.5) == ("texture", True)
    mask = feature_of(np.pad(em, 2, mode="symmetric"), rule.feature, rule.low, rule.unit) >= rule.threshold
    assert mask[:, 22:].mean() > 0.99
    assert mask[:, :18].mean() < 0.01


@pytest.mark.parametrize("unit", [1 / 65535, 0.01, 1.0, 1000.0])
def test_the_unit_of_the_intensities_does_not_matter(unit):
    rng = np.random.default_rng(0)
    array = rng.normal(100, 8, (12, 60, 60))
    cells = ndimage.gaussian_filter(rng.normal(0, 1, (12, 40, 60)), 3)
    array[:, 20:] += np.exp(6 + cells / cells.std())  # few voxels are very bright, as in real tissue
    array = (array * unit).astype(np.float32)
    rule = choose_rule(coarse_grid(open_volume(array, voxel_size="5,4,4um")))
    assert rule.depth > 0.8
    mask = feature_of(np.pad(array, 2, mode="symmetric"), rule.feature, rule.low, rule.unit) >= rule.threshold
    assert mask[:, 22:].mean() > 0.99
    assert mask[:, :18].mean() < 0.01


@pytest.mark.parametrize(
    ("factor", "dtype", "unit"), [(1, np.uint8, 1), (1, np.float32, 0.01), (999, float, 1)]
)
def test_whole_numbers_and_wide_ranges_are_taken_as_they_are(factor, dtype, unit):
    array = factor * RNG.poisson(20, (12, 60, 60)).astype(dtype)  # nearly all are 5 to 45
    rule = choose_rule(coarse_grid(open_volume(array, voxel_size="5,4,4um")))
    assert rule.unit == pytest.approx(unit, rel=0.3)


def test_the_grid_is_coarse_and_nearly_cubic_whatever_the_levels():
    volume = open_volume(np.zeros((30, 1200, 1100), np.uint8), voxel_size="5,2,2um")
    grid = coarse_grid(volume)
    assert [int(f) for f in grid.factor] == [1, 4, 4]
    assert grid.shape == (30, 300, 275)
    with pytest.raises(UserError, match="constant"):
        choose_rule(grid)
    with pytest.raises(UserError, match="flat"):
        coarse_grid(open_volume(np.zeros((1, 20, 20), np.uint8), voxel_size="4nm"))
