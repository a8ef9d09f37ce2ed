"""Do membranes segment better in EM that was made from X-ray? ``make study-xray2em``, or ``python studies/xray2em.py``.

X-ray scans of ``fib_medulla`` at 30 nm are simulated; each way makes an image at 10 nm of them, in which ``neurons-fib``, the
same network for all, finds membranes and neurons. The membrane threshold of a way is the best one on the choosing planes,
scores are of the reporting planes (docs/data.md). Each run is one process on one core, kept in
``studies/results/xray2em``; delete its file to run it again. Writes docs/studies/xray2em.md. Needs the data sets.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kept import digest, keep, made, make, of_recipe
from numpy.typing import NDArray
from scipy import fft, ndimage
from xray2em_report import report
from xray2em_rivals import MODEL, RECIPE, direct, find_directly, member, plain
from xray2em_scores import EYES, KNOWN, Real, likeness, membranes, pixels, raw, segmented, trust

from connectoscope.jobs.context import Context
from connectoscope.networks.normalise import intensity_range
from connectoscope.tasks.reconstruct import Reconstruct
from connectoscope.tasks.reconstruct import run as reconstruct
from connectoscope.tasks.simulate_xray import SimulateXray
from connectoscope.tasks.simulate_xray import run as simulate_xray
from connectoscope.training.recipe import data_folder
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.xray2em import surrogate
from connectoscope.xray2em.forward import stain_density
from connectoscope.xray2em.run import STAIN
from connectoscope.zoo import find_model

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "studies" / "results" / "xray2em"
WORK = ROOT / "build" / "studies" / "xray2em"
VOXEL, SCALE = 30.0, 3
SEEDS = range(3)
WAYS = ("interpolation", "wiener", "ours")
RIVALS = ("member", "plain", "direct")  # of the main condition only, each seed with a scan of its own
MAIN = "90-1e4"  # resolution in nm and photons per pixel
OTHERS = ("60-1e4", "130-1e4", "90-1e3", "90-1e5")
STRANGE = ("inverted", "noise", "vnc_sstem", "isbi2012", "lightsheet_cells")
log = logging.getLogger("study")


def runs() -> list[tuple[str, str, int]]:
    """(way, condition, seed) of all runs."""
    made = [(way, MAIN, seed) for seed in SEEDS for way in WAYS]
    made += [(way, "wave", 0) for way in WAYS]
    made += [(way, MAIN, seed) for way in RIVALS for seed in SEEDS]
    made += [(way, condition, 0) for condition in OTHERS for way in ("interpolation", "ours")]
    return [("truth", "em", 0), *made, *(("strange", name, 0) for name in STRANGE)]


def stored(run: tuple[str, str, int]) -> Path:
    return RESULTS / "--".join((*run[:2], f"{run[2]}.json"))


def sources() -> dict[str, str]:
    """What decides the results besides the code: the models, calibrated as they are, and the recipe of the rivals."""
    models = [
        find_model(name) for name in (MODEL, EYES, "features-em")
    ]  # the last is in the loss of the rivals
    found = {m.card.name: digest(m.hash, str(m.card.calibration)) for m in models}
    return {**found, "recipe": of_recipe(RECIPE)}


def write(path: Path, image: NDArray[Any], voxel: float, start: float) -> None:
    spec = ImageSpec(image.shape, image.dtype, (voxel,) * 3, (start,) * 3, "nanometer", (64, 64, 64))
    create_image(path, spec, overwrite=True)[0].write(image).result()


def scanned(condition: str, seed: int, folder: Path) -> Path:
    """The X-ray volume of a condition, as ``simulate-xray`` makes it."""
    out = folder / "xray.ome.zarr"
    asked: dict[str, Any] = {"method": "wave"}
    if condition != "wave":
        resolution, counts = condition.split("-")
        asked = {"method": "surrogate", "resolution": f"{resolution}nm", "counts": float(counts)}
    simulate_xray(
        SimulateXray(source=str(raw()), destination=str(out), seed=seed, **asked),
        Context.local(folder / "scan.job", threads=1),
    )
    return out


def enlarged(image: NDArray[Any]) -> Real:
    """On the EM's grid, by cubic splines."""
    fine = ndimage.zoom(image.astype(np.float32), SCALE, order=3, mode="nearest", grid_mode=True)
    return np.asarray(fine, np.float32)


def deconvolved(image: NDArray[Any], condition: str) -> Real:
    """Wiener filter that knows the scan's transfer and noise, and the power spectrum of the tissue's training planes."""
    resolution, counts = (None, "1e4") if condition == "wave" else condition.split("-")
    like = surrogate.at(VOXEL, counts=float(counts), rings=0.01)
    if resolution is not None:
        like = replace(like, resolution_nm=float(resolution))
    volume = open_volume(raw())
    low, high = intensity_range(volume.read, volume.shape, *STAIN)
    em = pixels(raw())[KNOWN]
    z, y, x = (n // SCALE for n in em.shape)
    em = em[: z * SCALE, : y * SCALE, : x * SCALE].reshape(z, SCALE, y, SCALE, x, SCALE).mean((1, 3, 5))
    density = stain_density(em, low, high)
    power = np.square(fft.dctn(density - density.mean(), norm="ortho"))
    edges = np.linspace(0, np.sqrt(3) / (2 * VOXEL), 40)

    def frequency(shape: tuple[int, ...]) -> NDArray[np.float64]:
        axes = np.meshgrid(*(np.arange(n) / (2 * n * VOXEL) for n in shape), indexing="ij")
        return np.asarray(np.sqrt(sum(np.square(a) for a in axes)))

    shell = np.digitize(frequency(density.shape), edges).ravel()
    spectrum = np.bincount(shell, power.ravel(), len(edges) + 1) / np.maximum(
        np.bincount(shell, minlength=len(edges) + 1), 1
    )
    f = frequency(image.shape)
    signal = spectrum[np.digitize(f, edges)]
    transfer = surrogate.transfer(f, like)
    noise = surrogate.noise_power(np.maximum(f, f[f > 0].min()), like)
    coefficients = fft.dctn(image.astype(np.float64), norm="ortho")
    coefficients *= transfer * signal / (np.square(transfer) * signal + noise)
    return np.asarray(fft.idctn(coefficients, norm="ortho"), np.float32)


def measure(run: tuple[str, str, int]) -> dict[str, Any]:
    """The figures of one run."""
    way, condition, seed = run
    folder = WORK / "--".join(map(str, run))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if way == "strange":
        return strange(condition, folder)
    if way == "direct":
        network = direct(seed, WORK / f"direct-{seed}")
        found = membranes(find_directly(network, scanned(condition, seed, folder)))
    else:
        found = by_image(way, condition, seed, folder)
    shutil.rmtree(folder)
    return found


def by_image(way: str, condition: str, seed: int, folder: Path) -> dict[str, Any]:
    """The figures of a way that makes an image like EM first."""
    image, channel, found = raw(), None, {}
    if way != "truth":
        xray = scanned(condition, seed, folder)
        image = folder / "em.ome.zarr"
        if way in ("interpolation", "wiener"):
            seen = pixels(xray)
            fine = enlarged(deconvolved(seen, condition) if way == "wiener" else seen)
            write(image, fine, VOXEL / SCALE, (1 / SCALE - 1) / 2 * VOXEL)
        else:
            channel, model = "em", Path(MODEL)
            if way == "member":
                model = member(seed, folder).path
            elif way == "plain":
                model = plain(seed, WORK / f"plain-{seed}").path
            told = reconstructed(xray, image, model)
            found = {"untrusted_share": told["untrusted_share"], "epistemic_sd": told["epistemic_sd"]}
        found |= likeness(pixels(image, channel))
    probability, vi = segmented(image, channel, folder)
    found |= {**membranes(probability), **vi}
    if way == "ours":
        members = [folder / f"em{k}.ome.zarr" for k in range(3)]
        for k, path in enumerate(members):
            reconstructed(xray, path, member(k, folder).path)
        found |= trust(image, members, probability, found["threshold"])
    return found


def reconstructed(xray: Path, image: Path, model: Path | str) -> dict[str, Any]:
    """``reconstruct`` as ``image``; its summary."""
    asked = Reconstruct(source=str(xray), destination=str(image), model=str(model))
    return reconstruct(asked, Context.local(image.with_suffix(".job"), threads=1))


def strange(name: str, folder: Path) -> dict[str, Any]:
    """What the model says of its ignorance where it has learned nothing."""
    if name in ("inverted", "noise"):
        seen = pixels(scanned(MAIN, 0, folder))
        image = 255 - seen if name == "inverted" else np.random.default_rng(0).normal(128, 30, seen.shape)
    else:
        image = pixels(data_folder() / name / "raw.ome.tif")[:48, :192, :192]
    write(folder / "strange.ome.zarr", image.astype(np.float32), VOXEL, 0.0)
    told = reconstructed(folder / "strange.ome.zarr", folder / "em.ome.zarr", MODEL)
    shutil.rmtree(folder)
    return {k: told[k] for k in ("untrusted_share", "epistemic_sd", "warnings")} | {
        "usual": told["calibration"]["epistemic_sd"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=3, metavar=("WAY", "CONDITION", "SEED"))
    parser.add_argument("--report", action="store_true", help="only write the page from what was kept")
    options = parser.parse_args()
    asked = options.run
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    RESULTS.mkdir(parents=True, exist_ok=True)
    if asked is not None:
        run = (asked[0], asked[1], int(asked[2]))
        keep(stored(run), {**made(sources()), **measure(run)})
        return
    if not options.report:
        missing = [run for run in runs() if not stored(run).exists()]
        make(__file__, [(way, condition, str(seed)) for way, condition, seed in missing])
    found = {
        run: json.loads(stored(run).read_text(encoding="utf-8")) for run in runs() if stored(run).exists()
    }
    (ROOT / "docs" / "studies" / "xray2em.md").write_text(
        report(found, len(runs()) - len(found), sources()), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
