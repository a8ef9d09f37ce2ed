"""Each stage of the wave model against a closed form or scikit-image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from skimage.transform import iradon, radon

from connectoscope.errors import UserError
from connectoscope.xray2em import forward, optics, tomography
from connectoscope.xray2em.optics import Optics
from connectoscope.xray2em.spectra import resolution, shells

VOXEL = 30.0
OPTICS = Optics()


def grating(period: int, amplitude: float, shape: tuple[int, int] = (64, 128)) -> np.ndarray:
    t = np.arange(shape[1])
    return np.broadcast_to(amplitude * np.cos(2 * np.pi * t / period), shape).astype(np.float32)


def test_geometry_is_the_published_one() -> None:
    assert OPTICS.wavelength_nm == pytest.approx(0.0725, abs=1e-4)
    first, *_, last = (z / 1e6 for z in OPTICS.distances_nm(20.0))
    assert first == pytest.approx(8.19, abs=0.02)
    assert last == pytest.approx(12.952 * (1217 - 12.952) / 1217, rel=2e-3)
    period = np.sqrt(2 * OPTICS.wavelength_nm * OPTICS.distances_nm(30.0)[0])  # first maximum of the transfer
    assert period == pytest.approx(1300, rel=0.03)
    with pytest.raises(UserError, match="at most 939 nm"):
        OPTICS.distances_nm(2000.0)


def test_stain_is_dense_where_em_is_dark() -> None:
    density = forward.stain_density(np.array([0, 50, 100, 150, 255], np.uint8), 50, 150)
    np.testing.assert_allclose(density, [1, 1, 0.5, 0, 0])


def test_free_space_changes_neither_nothing_nor_the_energy() -> None:
    kernels = optics.fresnel_kernels((64, 128), OPTICS, VOXEL)
    np.testing.assert_allclose(optics.propagate(np.ones((64, 128), np.complex64), kernels), 1, atol=1e-5)
    thick = np.random.default_rng(0).normal(0, 3, (64, 128)).astype(np.float32)
    wave = optics.exit_wave(thick, OPTICS, VOXEL)
    energy = optics.propagate(wave, kernels).mean(axis=(1, 2))
    np.testing.assert_allclose(energy, (np.abs(wave) ** 2).mean(), rtol=1e-4)


@pytest.mark.parametrize("period", [8, 16, 64])
def test_weak_grating_shows_the_contrast_transfer(period: int) -> None:
    thickness = grating(period, 0.1)
    wave = optics.exit_wave(thickness, OPTICS, VOXEL)
    phase = -2 * np.pi / OPTICS.wavelength_nm * OPTICS.delta * VOXEL * thickness
    for image, z in zip(
        optics.propagate(wave, optics.fresnel_kernels((64, 128), OPTICS, VOXEL)),
        OPTICS.distances_nm(VOXEL),
        strict=True,
    ):
        x = np.pi * OPTICS.wavelength_nm * z / (period * VOXEL) ** 2
        expected = 2 * (np.sin(x) + np.cos(x) / OPTICS.delta_beta) * phase
        np.testing.assert_allclose(image - 1, expected, atol=3e-5)


def test_a_shift_moves_the_image() -> None:
    wave = optics.exit_wave(np.random.default_rng(0).random((32, 40), np.float32), OPTICS, VOXEL)
    kernels = optics.fresnel_kernels((32, 40), OPTICS, VOXEL)
    moved = optics.propagate(wave, kernels, (3, -2))
    np.testing.assert_allclose(moved, np.roll(optics.propagate(wave, kernels), (3, -2), (1, 2)), atol=1e-4)


def test_focus_blurs_by_its_width() -> None:
    image = np.zeros((1, 41, 41), np.float32)
    image[0, 20, 20] = 1
    line = optics.blur_of_focus(image, replace(OPTICS, focus_nm=300.0), VOXEL)[0].sum(0)
    assert (np.arange(41) - 20) ** 2 @ line == pytest.approx((300 / 2.3548 / VOXEL) ** 2, rel=0.02)


@pytest.mark.parametrize("counts", [1e3, 1e4])
def test_detector_counts_photons_and_repeats_its_gain_errors(counts: float) -> None:
    some = replace(OPTICS, counts=counts, rings=0.02)
    planes = range(40)
    gains = optics.gain(planes, 500, 4, some, seed=5)
    assert np.log(gains).std() == pytest.approx(0.02, rel=0.02)
    flat = np.ones_like(gains)
    one, other = (optics.detect(flat, gains, planes, some, 5, angle) for angle in (0, 1))
    assert one.std() == pytest.approx(np.hypot(counts**-0.5, 0.02), rel=0.02)
    assert np.mean((one - 1) * (other - 1)) == pytest.approx(0.02**2, rel=0.1)
    np.testing.assert_array_equal(one, optics.detect(flat, gains, planes, some, 5, 0))
    # A plane has its noise whatever it is simulated with.
    np.testing.assert_array_equal(
        one[:, 10:], optics.detect(flat[:, 10:], gains[:, 10:], planes[10:], some, 5, 0)
    )


@pytest.mark.parametrize("period", [4, 8, 32])
def test_retrieval_finds_a_weak_phase_of_any_period(period: int) -> None:
    quiet = replace(OPTICS, alpha=1e-6)
    thickness = grating(period, 0.1)
    images = optics.propagate(
        optics.exit_wave(thickness, quiet, VOXEL), optics.fresnel_kernels((64, 128), quiet, VOXEL)
    )
    np.testing.assert_allclose(forward.retrieve(images, quiet, VOXEL), thickness, atol=4e-3)


def test_near_field_retrieval_finds_only_what_is_coarse() -> None:
    quiet = replace(OPTICS, alpha=1e-6)
    found = {}
    for period in (8, 512):
        thickness = grating(period, 0.1, (8, 512))
        kernels = optics.fresnel_kernels((8, 512), quiet, VOXEL)
        images = optics.propagate(optics.exit_wave(thickness, quiet, VOXEL), kernels)
        phase = forward.retrieve(images, quiet, VOXEL, "paganin")
        found[period] = (phase * thickness).mean() / (thickness**2).mean()
    assert found[512] == pytest.approx(1, abs=0.05)
    assert abs(found[8]) < 0.02


def test_halo_half_of_a_period_of_three_micrometres_is_lost() -> None:
    period = 104  # 3.1 µm
    thickness = grating(period, 0.05, (8, 8 * period))
    images = optics.propagate(
        optics.exit_wave(thickness, OPTICS, VOXEL),
        optics.fresnel_kernels((8, 8 * period), OPTICS, VOXEL),
    )
    found = forward.retrieve(images, OPTICS, VOXEL)
    assert (found * thickness).mean() / (thickness**2).mean() == pytest.approx(0.55, abs=0.1)


@pytest.mark.parametrize("degrees", [20, 45, 90, 150])
def test_a_disc_casts_the_same_shadow_at_every_angle(degrees: float) -> None:
    columns = tomography.disc(80, soft=16).reshape(1, -1).T
    line, straight = (
        tomography.project(columns, tomography.shadow_matrix(80, np.deg2rad(a)))[0] for a in (degrees, 0)
    )
    np.testing.assert_allclose(line, straight, atol=0.1)  # of up to 62; linear weights: 6 at 45 degrees


@pytest.fixture(scope="module")
def slice_() -> np.ndarray:
    n = 64
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    image = np.exp(-((x - 8) ** 2 + (y + 5) ** 2) / 30) + 0.7 * np.exp(-((x + 12) ** 2 + (y - 9) ** 2) / 12)
    return (image * tomography.disc(n)).astype(np.float32)


def test_projection_is_the_integral_along_the_rays(slice_: np.ndarray) -> None:
    angles = np.pi * np.arange(20) / 20
    columns = slice_.reshape(1, -1).T
    ours = np.stack([tomography.project(columns, tomography.shadow_matrix(64, a))[0] for a in angles])
    t = np.arange(64) - 31.5
    exact = sum(
        w * np.sqrt(np.pi * s) * np.exp(-((t - (x * np.cos(a) + y * np.sin(a))[..., None]) ** 2) / s)
        for w, s, x, y, a in ((1.0, 30, 8, -5, angles), (0.7, 12, -12, 9, angles))
    )
    np.testing.assert_allclose(
        ours, exact, atol=0.15
    )  # of up to 10; the width of voxel and pixel blurs a little
    theirs = radon(slice_, np.rad2deg(angles), circle=True).T
    assert np.corrcoef(ours.ravel(), exact.ravel())[0, 1] > 0.9999
    assert ours.sum() == pytest.approx(theirs.sum(), rel=2e-3)


def test_back_projection_gives_the_slice_back(slice_: np.ndarray) -> None:
    count = tomography.angle_count(64)
    assert count == 100
    columns, back = slice_.reshape(1, -1).T, np.zeros((64 * 64, 1), np.float32)
    for k in range(count):
        shadow = tomography.shadow_matrix(64, np.pi * k / count)
        filtered = tomography.ramp_filter(tomography.project(columns, shadow))
        back += np.pi / count * tomography.back_project(filtered, shadow)
    found = back.reshape(64, 64) * tomography.disc(64)
    np.testing.assert_allclose(found, slice_, atol=0.04)
    degrees = 180 * np.arange(count) / count
    theirs = iradon(radon(slice_, degrees, circle=True), degrees, circle=True) * tomography.disc(64)
    assert np.abs(found - slice_).mean() < 1.5 * np.abs(theirs - slice_).mean()


def test_small_specimens_are_scanned_as_six_micrometres() -> None:
    planes, width = forward.simulated_extent((17, 100, 60), VOXEL)
    assert width >= 200 > width - 2
    assert 2 * (17 + 2 * planes) >= 200
    planes, width = forward.simulated_extent((64, 300, 400), VOXEL)
    assert planes * VOXEL >= 1500
    assert width >= 500
    assert width % 2 == 0


def test_correlation_of_shells_knows_noise() -> None:
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=(2, 32, 40, 48))
    assert shells(signal, signal).correlation == pytest.approx(1)
    assert np.abs(shells(signal, noise).correlation[6:]).max() < 0.1
    mixed = shells(signal, 2 * signal + 3 * noise)
    np.testing.assert_allclose(mixed.transfer[6:], 2, atol=0.4)
    np.testing.assert_allclose(mixed.noise[6:], 9, rtol=0.25)
    frequency = np.linspace(0.01, 0.49, 25)
    falling = np.where(frequency < 0.25, 1.0, 0.0)
    assert resolution(falling, frequency) == pytest.approx(4, rel=0.05)
    assert resolution(np.ones(25), frequency) is None
