"""The blob filter: what it finds, where, and that nothing depends on the tile."""

from __future__ import annotations

import numpy as np
import pytest

from connectoscope.detection.blobs import Blob, find_blobs, plane_noise, response
from connectoscope.detection.cells import close_to_brighter, large_core, open_directions
from connectoscope.volumes.geometry import Box

VOXEL = (5.0, 2.0, 2.0)


def spot(shape, centre, width=(5.0, 5.0, 5.0), height=1000.0):
    """A Gaussian spot; centre in voxels, width in micrometres."""
    grids = np.indices(shape, dtype=np.float64)
    far = sum(((g - c) * v / w) ** 2 for g, c, v, w in zip(grids, centre, VOXEL, width, strict=True))
    return (height * np.exp(-far / 2)).astype(np.float32)


def found_in(array, blob, threshold=5.0):
    padded = np.pad(array, [(h, h) for h in blob.halo], mode="symmetric")
    return find_blobs(response(padded, blob), blob, threshold, Box.of(array.shape))


@pytest.mark.parametrize("centre", [(10, 20, 24), (10.5, 20.3, 23.6), (12, 18.75, 25.5)], ids=str)
def test_a_spot_is_found_within_a_fraction_of_a_voxel(centre):
    found = found_in(spot((24, 44, 48), centre), Blob.of(14, VOXEL))
    assert len(found.peak) == 1
    assert abs(found.position[0, 0] - centre[0]) <= 0.5
    np.testing.assert_allclose(found.position[0, 1:], centre[1:], atol=0.15)


def test_a_cell_smeared_along_z_is_one_point_in_its_middle_though_one_end_is_brighter():
    array = spot((24, 44, 48), (12, 20, 24), width=(1e6, 5, 5))
    array[:8] = array[16:] = 0
    array *= np.linspace(1, 3, 24, dtype=np.float32)[:, None, None]  # brightest in plane 15
    found = found_in(array, Blob.of(14, VOXEL), threshold=50)
    assert len(found.peak) == 1
    assert abs(found.position[0, 0] - 11.5) <= 0.5


@pytest.mark.parametrize("centre", [(0, 20, 24), (23, 20, 24), (12, 0, 24), (12, 43, 0), (0, 0, 47)], ids=str)
def test_a_cell_at_the_border_is_one_point_and_its_run_ends_there(centre):
    found = found_in(spot((24, 44, 48), centre), Blob.of(14, VOXEL))
    assert len(found.peak) == 1
    np.testing.assert_allclose(found.position[0], centre, atol=3)
    assert ((found.position >= -0.5) & (found.position <= np.array((24, 44, 48)) - 0.5)).all()


def test_of_a_plateau_exactly_the_first_voxel_is_a_peak():
    blob = Blob.of(14, VOXEL)
    z, y, x = blob.margin
    values = np.zeros((2 * z + 5, 2 * y + 9, 2 * x + 20), np.float32)
    values[z + 2, y + 4, x : x + 12] = 9  # longer than the window
    assert find_blobs(values, blob, 1.0, Box.of((5, 9, 20))).peak.tolist() == [[2, 4, 0]]


def test_threads_do_not_change_a_bit():
    blob = Blob.of(12, VOXEL)
    array = np.random.default_rng(0).normal(size=(25, 40, 41)).astype(np.float32)
    np.testing.assert_array_equal(response(array, blob, 1), response(array, blob, 3))


def test_the_response_is_strongest_for_the_diameter_that_was_asked_for():
    def disc(radius):
        y, x = (np.indices((81, 81)) - 40) * 2.0
        return np.repeat(((y**2 + x**2) <= radius**2).astype(np.float32)[None], 13, axis=0)

    blob = Blob.of(20, VOXEL)
    strength = {r: response(disc(r), blob).max() for r in (4, 7, 10, 14, 20)}
    assert max(strength, key=strength.get) in (10, 14)


def test_noise_is_that_of_voxels_in_each_plane_whatever_lies_in_them():
    gain = np.linspace(1, 4, 20)
    array = np.random.default_rng(0).normal(size=(20, 300, 300)) * gain[:, None, None]
    array += 50 * np.sin(np.arange(300) / 4)  # as large as cells, and everywhere
    array[:, :, :90] = 0  # masked

    def read(box):
        return array[box.slices]

    np.testing.assert_allclose(plane_noise(read, array.shape), gain, rtol=0.15)
    assert not plane_noise(lambda box: np.full(box.shape, 7, np.float32), array.shape).any()
    array[:] = 0
    array[:, 187, 190] = 10  # no noise at all
    assert (plane_noise(read, array.shape) > 0).all()


def test_open_directions_are_those_that_the_ball_of_a_point_reaches():
    core, radius = (10, 20, 20), (2.0, 3.0, 3.0)

    def of(*places):
        return open_directions(np.array(places, float).reshape(-1, 3), radius, core)

    def direction(z, y, x):
        return (z + 1) * 9 + (y + 1) * 3 + x + 1

    assert of((5, 10, 10)) == of() == []
    assert of((1, 10, 10)) == [direction(-1, 0, 0)]
    assert of((5, 18, 2)) == sorted([direction(0, 1, 0), direction(0, 0, -1), direction(0, 1, -1)])
    assert len(of((1, 1, 1))) == 7
    assert of((2, 10, 10)) == []  # -0.5 is the face


def test_large_cores_part_the_grid_evenly():
    assert large_core((30, 510, 667)) == (30, 255, 223)
    assert large_core((10, 20, 30)) == (10, 20, 30)


@pytest.mark.parametrize("count", [0, 1, 60])
def test_points_close_to_a_brighter_one_are_counted(count: int) -> None:
    rng = np.random.default_rng(count)
    position, score = rng.uniform(0, 60, (count, 3)), rng.uniform(4, 9, count)
    apart = np.linalg.norm(position[:, None] - position[None], axis=2)
    expected = ((apart <= 9) & (score[None] > score[:, None])).any(axis=1).sum()
    assert close_to_brighter(position, score, 9.0) == expected
    assert expected == 0 or count == 60
