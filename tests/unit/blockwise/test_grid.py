"""The model grid: choice of level, resampling, reflection; any part has the values of the whole."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.blockwise.grid import Grid, choose_grid, reflected
from connectoscope.blockwise.resample import resampled_length, taps
from connectoscope.errors import UserError
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box

FACTORS = st.sampled_from(
    [Fraction(1), Fraction(2), Fraction(3, 2), Fraction(1, 2), Fraction(5, 16), Fraction(7)]
)


def volume_of(shape, seed=0, voxel_size="8nm"):
    array = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    return open_volume(array, voxel_size=voxel_size), array


@st.composite
def a_box(draw, low=-9, high=30):
    start = [draw(st.integers(low, high - 1)) for _ in range(3)]
    return Box(tuple(start), tuple(draw(st.integers(s + 1, min(s + 12, high))) for s in start))


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(FACTORS, FACTORS, FACTORS), a_box())
def test_a_part_has_the_bits_of_the_whole_padded_symmetrically(shape, factor, box):
    volume, _ = volume_of(shape)
    grid = Grid(volume, 0, factor)
    whole = grid.read(Box.of(grid.shape))
    before = [(max(-box.start[a], 0), max(box.stop[a] - grid.shape[a], 0)) for a in range(3)]
    padded = np.pad(whole, before, mode="symmetric")
    at = Box(box.start, box.stop).shifted(tuple(b[0] for b in before))
    np.testing.assert_array_equal(grid.read(box), padded[at.slices])


def test_unresampled_values_are_those_of_the_volume():
    volume, array = volume_of((5, 6, 7))
    np.testing.assert_array_equal(Grid(volume).read(Box.of((5, 6, 7))), array.astype(np.float32))


def test_reducing_is_the_area_average():
    volume, array = volume_of((4, 6, 8))
    grid = Grid(volume, 0, (Fraction(2), Fraction(3), Fraction(2)))
    mean = array.astype(np.float64).reshape(2, 2, 2, 3, 4, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(grid.read(Box.of(grid.shape)), mean, rtol=1e-5)


def test_enlarging_keeps_a_ramp_a_ramp_between_centres():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32) * 10, (2, 2, 8))
    grid = Grid(
        open_volume(np.ascontiguousarray(ramp), voxel_size="8nm"),
        0,
        (Fraction(1), Fraction(1), Fraction(1, 2)),
    )
    expected = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7) * 10
    np.testing.assert_allclose(grid.read(Box.of(grid.shape))[0, 0], expected, rtol=1e-6)


@given(st.integers(1, 50), FACTORS)
def test_weights_sum_to_one_and_stay_inside(length, factor):
    rows = taps(0, resampled_length(length, factor), factor, length)
    np.testing.assert_allclose(rows.weight.sum(axis=1), 1, rtol=1e-5)
    assert rows.start >= 0
    assert rows.stop <= length


def test_large_reductions_are_read_in_slabs_of_the_same_values(monkeypatch):
    volume, _ = volume_of((9, 20, 20))
    grid = Grid(volume, 0, (Fraction(3, 2), Fraction(2), Fraction(2)))
    whole = grid.read(Box.of(grid.shape))
    monkeypatch.setattr("connectoscope.blockwise.grid.READ_LIMIT", 500)
    np.testing.assert_array_equal(grid.read(Box.of(grid.shape)), whole)


def test_reflection_repeats_the_border_voxel():
    assert reflected(-3, 7, 3).tolist() == [2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    assert reflected(-2, 3, 1).tolist() == [0] * 5


def test_translation_is_of_the_centre_of_voxel_0():
    volume, _ = volume_of((8, 8, 8))
    grid = Grid(volume, 0, (Fraction(2), Fraction(1), Fraction(1, 2)))
    assert grid.scale == (16.0, 8.0, 4.0)
    assert grid.translation == (4.0, 0.0, -2.0)


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ("8nm", (1, 1, 1)),
        ("9.9,6.5,8nm", (1, 1, 1)),
        ("4,8,8nm", (2, 1, 1)),
        ("16,8,2nm", (Fraction(1, 2), 1, 4)),
        ("12nm", (Fraction(2, 3), Fraction(2, 3), Fraction(2, 3))),
    ],
)
def test_factor_from_voxel_size(size, factor):
    volume, _ = volume_of((4, 4, 4), voxel_size=size)
    assert choose_grid(volume, (8.0, 8.0, 8.0)).factor == factor


def test_too_coarse_and_too_fine_are_refused_with_what_to_do():
    for size in ("17,8,8nm", "8,8,0.2nm"):
        volume, _ = volume_of((4, 4, 4), voxel_size=size)
        with pytest.raises(UserError, match="--voxel-size"):
            choose_grid(volume, (8.0, 8.0, 8.0))
    with pytest.raises(UserError, match="--voxel-size"):
        choose_grid(open_volume(np.zeros((3, 3, 3), np.uint8)), (8.0, 8.0, 8.0))


def test_boxes_cover_each_other_through_the_grid():
    volume, _ = volume_of((20, 20, 20))
    grid = Grid(volume, 0, (Fraction(2), Fraction(3, 2), Fraction(1)))
    box = grid.box_from_level(Box((3, 4, 5), (9, 11, 20)), 0)
    assert box == Box((1, 2, 5), (5, 8, 20))
    assert grid.box_in_level0(box).contains(Box((3, 4, 5), (9, 11, 20)))
    with pytest.raises(UserError, match="outside"):
        grid.box_from_level(Box((0, 0, 0), (21, 1, 1)), 0)
    with pytest.raises(UserError, match="level 3"):
        grid.box_from_level(Box((0, 0, 0), (1, 1, 1)), 3)


def test_level_nearest_to_the_model_is_chosen(tmp_path):
    from connectoscope.volumes import ImageSpec, create_image

    spec = ImageSpec(
        shape=(16, 64, 64), dtype=np.dtype(np.uint8), scale=(8.0, 2.0, 2.0), translation=(0.0, 0.0, 0.0),
        unit="nanometer", chunks=(16, 16, 16), factors=((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)),
    )  # fmt: skip
    create_image(tmp_path / "v.zarr", spec)
    volume = open_volume(tmp_path / "v.zarr")
    grid = choose_grid(volume, (8.0, 8.0, 8.0))
    assert (grid.level, grid.factor) == (2, (1, 1, 1))
    assert choose_grid(volume, (8.0, 5.0, 5.0)).level == 1
    assert grid.box_from_level(Box((0, 4, 4), (16, 12, 9)), 0) == Box((0, 1, 1), (16, 3, 3))
    assert grid.box_in_level0(Box((0, 1, 1), (16, 3, 3))) == Box((0, 4, 4), (16, 12, 12))


def test_a_network_of_planes_takes_sections_as_they_are(tmp_path):
    from connectoscope.volumes import ImageSpec, create_image

    volume, _ = volume_of((6, 6, 6), voxel_size="50,4,4nm")
    assert choose_grid(volume, (10.0, 8.0, 8.0), planes=True).factor == (1, 2, 2)
    with pytest.raises(UserError, match="--voxel-size"):
        choose_grid(volume, (10.0, 8.0, 8.0))
    spec = ImageSpec(
        shape=(16, 64, 64), dtype=np.dtype(np.uint8), scale=(40.0, 8.0, 8.0), translation=(0.0, 0.0, 0.0),
        unit="nanometer", chunks=(16, 16, 16), factors=((1, 1, 1), (2, 1, 1)),
    )  # fmt: skip
    create_image(tmp_path / "v.zarr", spec)
    assert choose_grid(open_volume(tmp_path / "v.zarr"), (100.0, 8.0, 8.0), planes=True).level == 0
