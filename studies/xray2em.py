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
from kept import keep, make
from numpy.typing import NDArray
from scipy import fft, ndimage
from xray2em_report import report

from connectoscope.evaluation.voxels import PrecisionRecall, histograms, precision_recall
from connectoscope.jobs.context import Context
from connectoscope.networks.normalise import intensity_range
from connectoscope.tasks.evaluate import Evaluate
from connectoscope.tasks.evaluate import run as evaluate
from connectoscope.tasks.reconstruct import Reconstruct
from connectoscope.tasks.reconstruct import run as reconstruct
from connectoscope.tasks.segment import Segment
from connectoscope.tasks.segment import run as segment
from connectoscope.tasks.simulate_xray import SimulateXray
from connectoscope.tasks.simulate_xray import run as simulate_xray
from connectoscope.training.labels import boundaries
from connectoscope.training.recipe import data_folder
from connectoscope.volumes import ImageSpec, create_image, open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em import calibration, surrogate
from connectoscope.xray2em.forward import stain_density
from connectoscope.xray2em.quality import psnr, ssim
from connectoscope.xray2em.run import STAIN

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "studies" / "results" / "xray2em"
WORK = ROOT / "build" / "studies" / "xray2em"
MODEL, EYES = "xray2em-fib", "neurons-fib"
VOXEL, SCALE = 30.0, 3
KNOWN, CHOOSING, REPORTING = slice(0, 110), slice(114, 130), slice(134, 170)  # planes of fib_medulla
SEEDS = range(3)
WAYS = ("interpolation", "wiener", "ours")
MAIN = "90-1e4"  # resolution in nm and photons per pixel
OTHERS = ("60-1e4", "130-1e4", "90-1e3", "90-1e5")
STRANGE = ("inverted", "noise", "vnc_sstem", "isbi2012", "lightsheet_cells")
log = logging.getLogger("study")
Real = NDArray[np.float32]


def runs() -> list[tuple[str, str, int]]:
    """(way, condition, seed) of all runs."""
    made = [(way, MAIN, seed) for seed in SEEDS for way in WAYS]
    made += [(way, "wave", 0) for way in WAYS]
    made += [(way, condition, 0) for condition in OTHERS for way in ("interpolation", "ours")]
    return [("truth", "em", 0), *made, *(("strange", name, 0) for name in STRANGE)]


def stored(run: tuple[str, str, int]) -> Path:
    return RESULTS / "--".join((*run[:2], f"{run[2]}.json"))


def raw() -> Path:
    return data_folder() / "fib_medulla" / "raw.ome.tif"


def pixels(path: Path, channel: str | None = None) -> NDArray[Any]:
    volume = open_volume(path, channel=channel)
    return volume.read(Box.of(volume.shape))


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
    image, channel, found = raw(), None, {}
    if way != "truth":
        xray = scanned(condition, seed, folder)
        image = folder / "em.ome.zarr"
        if way == "ours":
            channel = "em"
            told = reconstruct(
                Reconstruct(source=str(xray), destination=str(image), model=MODEL),
                Context.local(folder / "em.job", threads=1),
            )
            found = {"untrusted_share": told["untrusted_share"], "epistemic_sd": told["epistemic_sd"]}
        else:
            seen = pixels(xray)
            fine = enlarged(deconvolved(seen, condition) if way == "wiener" else seen)
            write(image, fine, VOXEL / SCALE, (1 / SCALE - 1) / 2 * VOXEL)
        found |= likeness(pixels(image, channel))
    probability, vi = segmented(image, channel, folder)
    truth = boundaries(pixels(data_folder() / "fib_medulla" / "neuron_labels.ome.tif"))
    common = tuple(slice(0, min(a, b)) for a, b in zip(probability.shape, truth.shape, strict=True))
    probability, truth = probability[common], truth[common]
    chosen = curve(probability, truth, CHOOSING).best()[1]
    seen_curve = curve(probability, truth, REPORTING)
    found |= {
        "threshold": chosen,
        "membrane_f1": float(seen_curve.f1[255 - chosen]),
        "membrane_ap": seen_curve.average_precision,
        **vi,
    }
    if way == "ours":
        found |= trust(image, probability, truth, chosen)
    shutil.rmtree(folder)
    return found


def curve(probability: NDArray[np.uint8], truth: NDArray[np.bool_], planes: slice) -> PrecisionRecall:
    return precision_recall(*histograms(probability[planes], truth[planes]))


def segmented(image: Path, channel: str | None, folder: Path) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """Membrane probabilities, and the variation of information of the neurons on the reporting planes."""
    out = folder / "segmented.ome.zarr"
    segment(
        Segment(source=str(image), destination=str(out), model=EYES, target=("neurons",), channel=channel),
        Context.local(folder / "segmented.job", threads=1),
    )
    labels = data_folder() / "fib_medulla" / "neuron_labels.ome.tif"
    box = f"{REPORTING.start}:{REPORTING.stop},0:250,0:250"
    asked = Evaluate(result=str(out), truth=str(labels), target="neurons", box=box)
    scores = evaluate(asked, Context.local(folder / "evaluate.job"))
    return pixels(out, "boundary"), {k: scores[k] for k in ("vi", "vi_split", "vi_merge")}


def em_truth() -> Real:
    """The EM, 0-1 as models are trained on it."""
    volume = open_volume(raw())
    low, high = intensity_range(volume.read, volume.shape, 1.0, 99.0)
    return np.asarray((pixels(raw()).astype(np.float32) - low) / (high - low), np.float32)


def likeness(image: NDArray[Any]) -> dict[str, float]:
    """PSNR and SSIM on the reporting planes, after the best gain and offset, which some images leave open."""
    truth = em_truth()[REPORTING]
    seen = image[REPORTING].astype(np.float32)
    common = tuple(slice(0, min(a, b)) for a, b in zip(seen.shape, truth.shape, strict=True))
    seen, truth = seen[common], truth[common]
    gain, offset = np.polyfit(seen.ravel().astype(np.float64), truth.ravel().astype(np.float64), 1)
    fitted = (gain * seen + offset).astype(np.float32)
    return {"psnr": psnr(fitted, truth), "ssim": ssim(fitted, truth)}


def trust(
    image: Path, probability: NDArray[np.uint8], membranes: NDArray[np.bool_], threshold: int
) -> dict[str, Any]:
    """Calibration on the reporting planes, and whether uncertainty finds membrane errors."""
    em, aleatoric, epistemic = (
        pixels(image, name)[REPORTING].astype(np.float32) for name in ("em", "aleatoric_sd", "epistemic_sd")
    )
    truth = em_truth()[REPORTING]
    common = tuple(slice(0, min(a, b)) for a, b in zip(em.shape, truth.shape, strict=True))
    sd = np.hypot(aleatoric, epistemic)[common]
    error = truth[common] - em[common]
    found = calibration.calibration(error, sd)
    observed = calibration.coverage(error, sd, calibration.NOMINAL)
    p = probability[REPORTING][common]
    wrong = (p >= threshold) != membranes[REPORTING][common]
    smooth = ndimage.uniform_filter(sd, 5)
    return {
        "coverage": {f"{k:.2f}": v for k, v in found.coverage.items()},
        "observed": [round(float(v), 4) for v in observed],
        "ece": found.ece,
        "ause": found.ause,
        "scale_left": found.scale,
        "auroc": calibration.auroc(sd, wrong),
        "auroc_around": calibration.auroc(smooth, wrong),
        "auroc_probability": calibration.auroc(-np.abs(p.astype(np.float32) - 127.5), wrong),
    }


def strange(name: str, folder: Path) -> dict[str, Any]:
    """What the model says of its ignorance where it has learned nothing."""
    if name in ("inverted", "noise"):
        seen = pixels(scanned(MAIN, 0, folder))
        image = 255 - seen if name == "inverted" else np.random.default_rng(0).normal(128, 30, seen.shape)
    else:
        image = pixels(data_folder() / name / "raw.ome.tif")[:48, :192, :192]
    write(folder / "strange.ome.zarr", image.astype(np.float32), VOXEL, 0.0)
    told = reconstruct(
        Reconstruct(
            source=str(folder / "strange.ome.zarr"), destination=str(folder / "em.ome.zarr"), model=MODEL
        ),
        Context.local(folder / "em.job", threads=1),
    )
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
        keep(stored(run), measure(run))
        return
    if not options.report:
        missing = [run for run in runs() if not stored(run).exists()]
        make(__file__, [(way, condition, str(seed)) for way, condition, seed in missing])
    found = {run: json.loads(stored(run).read_text()) for run in runs() if stored(run).exists()}
    (ROOT / "docs" / "studies" / "xray2em.md").write_text(report(found, len(runs()) - len(found)))


if __name__ == "__main__":
    main()
