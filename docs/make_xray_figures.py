"""Draws docs/images/xray: what each stage of the X-ray forward model does, on planes of ``fib_medulla_large``.

python docs/make_xray_figures.py     (CONNECTOSCOPE_DATA: the full sets; scans are kept in build/xray)
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
import matplotlib.pyplot as plt

from connectoscope.blockwise.grid import Grid
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em import forward, optics, surrogate, tomography
from connectoscope.xray2em.optics import Optics
from connectoscope.xray2em.spectra import resolution, shells

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "images" / "xray"
KEPT = ROOT / "build" / "xray"
VOXEL = 30.0
BOX = Box((34, 22, 22), (50, 150, 150))  # of the 30 nm grid: planes 102-149 of the EM, of its training part


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ.get("CONNECTOSCOPE_DATA", "../shared/data"))
    em = open_volume(data / "fib_medulla_large" / "raw.ome.tif")
    factor = Fraction(3)
    grid = Grid(em, 0, (factor, factor, factor))
    low, high = np.percentile(grid.read(Box.of(grid.shape)), (0.5, 99.5))
    beyond, width = forward.simulated_extent(BOX.shape, VOXEL)
    side = (width - BOX.shape[1]) // 2
    density = forward.stain_density(grid.read(BOX.grown((beyond, side, side))), low, high)
    known = density[beyond:-beyond, side:-side, side:-side]
    draw_density(em, known)
    draw_one_angle(density)
    draw_transfer()
    halves = {rings: scanned(density, beyond, side, rings) for rings in (0.01, 0.0)}
    like, gain = surrogate.fit(shells(known, halves[0.0].mean(0)), VOXEL, surrogate.Surrogate())
    rings = (halves[0.01] - halves[0.0]).mean(0)
    sys.stdout.write(f"fit {like}\ngain {gain:.3f}, rings at 0.01 {rings.std() / gain:.3f}\n")
    like = replace(like, rings=float(rings.std() / gain))
    cheap = surrogate.simulate(known, VOXEL, like, 0)
    draw_reconstruction(known, halves[0.01].mean(0) / gain, cheap, rings / gain)
    draw_spectra(known, halves, cheap * gain)


def scanned(density: np.ndarray, beyond: int, side: int, rings: float) -> np.ndarray:
    """Both halves of a scan, cropped to the box; simulated once."""
    path = KEPT / f"scan-{rings}.npy"
    if not path.exists():
        planes, keep = range(2**20, 2**20 + len(density)), slice(beyond, len(density) - beyond)
        mean = float(density.mean())
        both = forward.scan(density, planes, keep, Optics(rings=rings), VOXEL, seed=0, mean=mean)
        np.save(path, both[:, :, side:-side, side:-side])
    return np.load(path)


def show(axes, image: np.ndarray, title: str, *, like: np.ndarray | None = None, dark: bool = False) -> None:
    """One grey image; ``dark``: high values dark, as stain in EM."""
    low, high = np.percentile(image if like is None else like, (0.5, 99.5))
    axes.imshow(image, cmap="gray_r" if dark else "gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def save(figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(OUT / f"{name}.png", dpi=80)
    plt.close(figure)


def draw_density(em, known: np.ndarray) -> None:
    figure, (one, two) = plt.subplots(1, 2, figsize=(8, 4.2))
    plane = em.read(Box((127, 66, 66), (128, 450, 450)))[0]
    show(one, plane, "EM, 10 nm")
    show(two, known[8], "stain density on the 30 nm grid (dark: dense)", dark=True)
    save(figure, "density")


def draw_one_angle(density: np.ndarray) -> None:
    """Projection, propagation, detection and retrieval at 30 degrees."""
    beam, width, angle = Optics(), density.shape[-1], 64
    mean = density.mean()
    columns = np.ascontiguousarray(((density - mean) * tomography.disc(width)).reshape(len(density), -1).T)
    thickness = tomography.project(columns, tomography.shadow_matrix(width, np.pi / 6))
    field = forward.surrounded(thickness)
    kernels = optics.fresnel_kernels(field.shape, beam, VOXEL)
    ideal = optics.propagate(optics.exit_wave(field, beam, VOXEL), kernels)
    planes = range(len(field))
    gains = optics.gain(planes, field.shape[1], 4, beam, 0)
    seen = optics.detect(optics.blur_of_focus(ideal, beam, VOXEL), gains, planes, beam, 0, angle)
    window = (slice(0, 120), slice(20, 180))

    figure, axes = plt.subplots(2, 3, figsize=(11, 6))
    show(axes[0, 0], thickness[window], "projection of the density", dark=True)
    for axis, image, z in zip(axes.flat[1:5], ideal, beam.distances_nm(VOXEL), strict=True):
        show(axis, image[window], f"intensity after {z / 1e6:.1f} mm")
    axes[1, 2].set_axis_off()
    save(figure, "propagation")

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    show(axes[0], ideal[0][window], "intensity", like=seen[0][window])
    show(axes[1], gains[0][window], "gain of the pixels (1 %)", like=seen[0][window])
    show(axes[2], seen[0][window], "detected: 10 000 photons, gain, focus of 50 nm")
    save(figure, "detection")

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    show(axes[0], thickness[window], "projection of the density", dark=True)
    for axis, method in zip(axes[1:], ("ctf", "paganin"), strict=True):
        found = forward.retrieve(seen, beam, VOXEL, method)
        name = {"ctf": "contrast transfer (used)", "paganin": "Paganin, near field"}[method]
        show(axis, found[window], f"retrieved: {name}", dark=True)
    save(figure, "retrieval")


def draw_transfer() -> None:
    beam = Optics()
    f = np.linspace(1e-5, 1 / 60, 4000)
    distances = np.array(beam.distances_nm(VOXEL))[:, None]
    x = np.pi * beam.wavelength_nm * distances * f**2
    weights = 2 * np.sin(x) + 2 / beam.delta_beta * np.cos(x)
    squares = (weights**2).mean(0)
    t = 1 + beam.delta_beta * x
    figure, (one, two) = plt.subplots(1, 2, figsize=(11, 3.6))
    for w, z in zip(weights, beam.distances_nm(VOXEL), strict=True):
        one.plot(f * 1000, w, lw=0.7, label=f"{z / 1e6:.1f} mm")
    one.set(xlabel="cycles per µm", ylabel="contrast for a phase of 1", xlim=(0, 3))
    one.legend(fontsize=8, loc="upper right")
    two.semilogx(f * 1000, squares / (squares + beam.alpha), label="all distances, alpha 0.5 (used)")
    near = (t * weights).mean(0) / (t**2).mean(0) * beam.delta_beta / 2
    two.semilogx(f * 1000, near, lw=0.7, label="Paganin, near field")
    two.axvspan(1 / 3, 1, color="0.9", label="periods of 1 to 3 µm")
    two.set(xlabel="cycles per µm", ylabel="phase found / phase", xlim=(0.1, 16), ylim=(-0.5, 1.1))
    two.legend(fontsize=8, loc="lower left")
    save(figure, "transfer")


def draw_reconstruction(known: np.ndarray, wave: np.ndarray, cheap: np.ndarray, rings: np.ndarray) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(9, 9.3))
    show(axes[0, 0], known[8], "stain density", dark=True)
    show(axes[0, 1], wave[8], "wave model", dark=True)
    show(axes[1, 0], cheap[8], "surrogate, fitted", like=wave[8], dark=True)
    show(axes[1, 1], rings[8], "rings alone (scan with minus scan without; contrast stretched)", dark=True)
    save(figure, "reconstruction")


def draw_spectra(known: np.ndarray, halves: dict[float, np.ndarray], cheap: np.ndarray) -> None:
    wave = halves[0.01]
    split, ours, theirs = shells(*wave), shells(known, wave.mean(0)), shells(known, cheap)
    bare = shells(*halves[0.0])
    f = split.frequency / VOXEL * 1000
    for name, s, threshold in (
        ("halves", split, 0.143),
        ("halves, no rings", bare, 0.143),
        ("wave and density", ours, 0.5),
        ("surrogate and density", theirs, 0.5),
    ):
        found = resolution(s.correlation, s.frequency, threshold)
        sys.stdout.write(f"{name}: {VOXEL * (found or 2):.1f} nm at {threshold}\n")
    used = slice(3, None)
    sys.stdout.write(
        f"largest difference of correlation {np.abs(ours.correlation - theirs.correlation)[used].max():.3f}, of "
        f"transfer {np.abs(ours.transfer - theirs.transfer)[used].max():.3f}; noise power ratio "
        f"{np.exp(np.abs(np.log(theirs.noise / ours.noise))[used].mean()):.2f} on average, "
        f"{np.exp(np.abs(np.log(theirs.noise / ours.noise))[used].max()):.2f} at most\n"
    )
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    axes[0].plot(f, split.correlation, label="even and odd angles")
    axes[0].plot(f, bare.correlation, "--", label="the same without rings")
    axes[0].plot(f, ours.correlation, label="wave model and density")
    axes[0].plot(f, theirs.correlation, label="surrogate and density")
    axes[0].axhline(0.143, color="0.7", lw=0.8)
    axes[0].axhline(0.5, color="0.7", lw=0.8)
    axes[0].set_ylabel("shell correlation")
    for axis, quantity in ((axes[1], "transfer"), (axes[2], "noise")):
        axis.plot(f, getattr(ours, quantity), label="wave model")
        axis.plot(f, getattr(theirs, quantity), label="surrogate")
        axis.set_ylabel({"transfer": "gain of the density", "noise": "power of the noise"}[quantity])
    axes[2].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("cycles per µm")
        axis.legend(fontsize=8)
    save(figure, "spectra")


if __name__ == "__main__":
    main()
