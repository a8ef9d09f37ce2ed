"""The surrogate against its own parameters, and against the wave model."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from connectoscope.xray2em import forward, surrogate
from connectoscope.xray2em.optics import Optics
from connectoscope.xray2em.spectra import resolution, shells
from connectoscope.xray2em.surrogate import Surrogate

VOXEL = 30.0
QUIET = Surrogate(halo_nm=np.inf, white=0, cloud=0, rings=0, drift=0)


def tissue(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Dark lines between cells of all sizes, 0 to 1: power at all frequencies, as in EM."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), s, mode="wrap") for s in (1.0, 2.0, 4.0)]
    lines = sum(np.exp(-((f / f.std()) ** 2) / 0.1) for f in fields)
    return np.clip(0.2 + lines / 2, 0, 1).astype(np.float32)


def test_resolution_is_the_width_of_the_blur() -> None:
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1
    image = surrogate.simulate(point, VOXEL, replace(QUIET, resolution_nm=150.0), 0)
    profile = image[20, 20] - image.min()
    above = np.interp(np.linspace(0, 40, 4001), np.arange(41), profile) > profile.max() / 2
    assert above.sum() / 100 * VOXEL == pytest.approx(150, rel=0.03)


def test_halo_takes_what_is_long() -> None:
    for period, kept in ((3000, 0.5), (10000, 0.01), (600, 1.0)):
        n = round(period / VOXEL)
        wave = np.cos(np.pi * (np.arange(2 * n) + 0.5) / n * 2).astype(np.float32)
        volume = np.broadcast_to(wave, (8, 8, 2 * n))
        image = surrogate.simulate(volume, VOXEL, replace(QUIET, resolution_nm=0.0, halo_nm=3000.0), 0)
        assert (image * volume).mean() / (volume**2).mean() == pytest.approx(kept, abs=0.01)


def test_noise_has_the_power_it_should() -> None:
    like = replace(QUIET, white=0.1, cloud=0.5, slope=3.0)
    image = surrogate.simulate(np.zeros((64, 64, 64), np.float32), VOXEL, like, 3)
    found = shells(image, image)
    expected = surrogate.noise_power(found.frequency / VOXEL, like)
    np.testing.assert_allclose((found.bb / found.count)[4:], expected[4:], rtol=0.25)


def test_seeds_and_settings() -> None:
    density = tissue((16, 20, 24))
    one, same = (surrogate.simulate(density, VOXEL, Surrogate(), 4) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - surrogate.simulate(density, VOXEL, Surrogate(), 5)).max() > 0.01
    assert one.dtype == np.float32
    assert surrogate.at(VOXEL, counts=1e4, rings=0.01).white == pytest.approx(Surrogate().white)
    assert surrogate.at(VOXEL, counts=1e2, rings=0.01).white == pytest.approx(10 * Surrogate().white)
    assert surrogate.at(60.0, counts=1e4, rings=0.0).rings == 0
    drawn = [surrogate.draw(Surrogate(), k) for k in range(50)]
    assert len(set(drawn)) == 50
    assert all(2 <= d.slope <= 4 and 1500 < d.halo_nm < 6000 for d in drawn)


def test_a_training_patch_takes_less_than_50_ms() -> None:
    patch = tissue((48, 48, 48))
    seconds = []
    for k in range(5):
        began = time.process_time()
        surrogate.simulate(patch, VOXEL, Surrogate(), k)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.05


@pytest.fixture(scope="module")
def scanned() -> tuple[np.ndarray, np.ndarray]:
    """A density and its scan without rings: small and with few angles, but with every stage of the wave model."""
    density = tissue((64, 96, 96))
    halves = forward.scan(
        density, range(64), slice(16, 48), Optics(rings=0.0), VOXEL, seed=0, mean=float(density.mean())
    )
    middle = (slice(None), slice(None), slice(16, 80), slice(16, 80))
    return density[16:48, 16:80, 16:80], halves[middle]


def test_fit_recovers_what_the_surrogate_was_made_with() -> None:
    like = replace(Surrogate(), rings=0.0, drift=0.0, resolution_nm=80.0, white=0.05, cloud=0.4, slope=2.5)
    density = tissue((96, 96, 96))
    fitted, gain = surrogate.fit(
        shells(density, 3 * surrogate.simulate(density, VOXEL, like, 1)), VOXEL, like
    )
    assert gain == pytest.approx(3, rel=0.1)
    assert fitted.resolution_nm == pytest.approx(80, rel=0.05)
    assert fitted.white == pytest.approx(0.05, rel=0.15)
    assert fitted.cloud == pytest.approx(0.4, rel=0.3)


def test_surrogate_resembles_the_wave_model(scanned) -> None:
    density, halves = scanned
    wave = halves.mean(0)
    reference = shells(density, wave)
    fitted, gain = surrogate.fit(reference, VOXEL, replace(Surrogate(), rings=0.0, drift=0.0))
    assert 1.8 * VOXEL < fitted.resolution_nm < 3 * VOXEL  # a blur of 2 to 3 voxels
    cheap = shells(density, gain * surrogate.simulate(density, VOXEL, fitted, 0))
    used = slice(3, None)
    np.testing.assert_allclose(cheap.correlation[used], reference.correlation[used], atol=0.12)
    np.testing.assert_allclose(cheap.transfer[used], reference.transfer[used], atol=0.08)
    ratio = np.log(cheap.noise[used] / reference.noise[used])
    assert np.abs(ratio).mean() < np.log(1.5)
    assert np.abs(ratio).max() < np.log(3)


def test_both_halves_agree_to_the_resolution_that_the_truth_confirms(scanned) -> None:
    density, halves = scanned
    split = shells(halves[0], halves[1])
    known = shells(density, halves.mean(0))
    found = resolution(split.correlation, split.frequency)
    assert found is not None
    assert 2 < found < 4
    assert found == pytest.approx(resolution(known.correlation, known.frequency, 0.5), rel=0.2)


def test_rings_are_there_and_grow_with_the_gain_errors() -> None:
    density = np.full((20, 64, 64), 0.5, np.float32)
    arguments = {"seed": 0, "mean": 0.5, "angles": 40}
    angular = []
    for rings in (0.0, 0.01, 0.02):
        optics = Optics(rings=rings, motion_nm=0.0, counts=1e6)
        image = forward.scan(density, range(20), slice(6, 14), optics, VOXEL, **arguments).mean(0)
        y, x = np.mgrid[:64, :64] - 31.5
        radius = np.rint(np.hypot(y, x)).astype(int).ravel()
        count = np.maximum(np.bincount(radius, minlength=50), 1)
        profiles = np.stack([np.bincount(radius, plane.ravel(), 50) / count for plane in image])
        angular.append(profiles[:, 5:25].std())
    assert angular[1] > 3 * angular[0]
    assert angular[2] == pytest.approx(2 * angular[1], rel=0.3)
