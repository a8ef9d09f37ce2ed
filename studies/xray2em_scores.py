"""What the study of X-ray to EM counts: likeness, membranes, neurons, and whether an uncertainty can be believed.

Images and probabilities are of ``fib_medulla`` at 10 nm, ``(Z, Y, X)``; some lack the last voxels along an axis, which
then do not count.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.evaluation.partitions import Contingency, variation_of_information
from connectoscope.evaluation.voxels import PrecisionRecall, histograms, precision_recall
from connectoscope.jobs.context import Context
from connectoscope.networks.normalise import intensity_range
from connectoscope.segmentation.neurons.agglomeration import agglomerate
from connectoscope.segmentation.neurons.contacts import find_contacts
from connectoscope.segmentation.neurons.evidence import BEFORE, Evidence
from connectoscope.segmentation.neurons.fragments import seeded_fragments, split
from connectoscope.tasks.evaluate import Evaluate
from connectoscope.tasks.evaluate import run as evaluate
from connectoscope.tasks.segment import Segment
from connectoscope.tasks.segment import run as segment
from connectoscope.training.labels import boundaries
from connectoscope.training.recipe import data_folder
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.xray2em import calibration
from connectoscope.xray2em.quality import psnr, ssim
from connectoscope.xray2em.training import Eyes

EYES = "neurons-fib"
KNOWN, CHOOSING, REPORTING = slice(0, 110), slice(114, 130), slice(134, 170)  # planes of fib_medulla
JOINED = (32, 64, 96, 128, 160, 192, 224)  # of 255, at which fragments are made and joined
SMALL = 200  # voxels: smaller segments of the truth do not count, smaller fragments are absorbed
DRAWS, AROUND = (
    8,
    14,
)  # images drawn of what the uncertainty allows; planes that they have beyond the scored ones
Real = NDArray[np.float32]


def raw() -> Path:
    return data_folder() / "fib_medulla" / "raw.ome.tif"


def pixels(path: Path, channel: str | None = None) -> NDArray[Any]:
    volume = open_volume(path, channel=channel)
    return volume.read(Box.of(volume.shape))


def neurons() -> NDArray[Any]:
    """The truth."""
    return pixels(data_folder() / "fib_medulla" / "neuron_labels.ome.tif")


def em_truth() -> Real:
    """The EM, 0-1 as models are trained on it."""
    volume = open_volume(raw())
    low, high = intensity_range(volume.read, volume.shape, 1.0, 99.0)
    return np.asarray((pixels(raw()).astype(np.float32) - low) / (high - low), np.float32)


def alike(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both, of the voxels that both have."""
    common = tuple(slice(0, min(n, m)) for n, m in zip(a.shape, b.shape, strict=True))
    return a[common], b[common]


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


def membranes(probability: NDArray[np.uint8]) -> dict[str, float]:
    """Membranes at the threshold that is best on the choosing planes, and the watershed of them."""
    ids = neurons()
    found, truth = alike(probability, boundaries(ids))
    chosen = _curve(found, truth, CHOOSING).best()[1]
    curve = _curve(found, truth, REPORTING)
    joined = min(JOINED, key=lambda t: _watershed_vi(probability, ids, CHOOSING, t))
    return {
        "threshold": chosen,
        "membrane_f1": float(curve.f1[255 - chosen]),
        "membrane_ap": curve.average_precision,
        "joined": joined,
        "watershed_vi": _watershed_vi(probability, ids, REPORTING, joined),
    }


def _curve(probability: NDArray[np.uint8], truth: NDArray[np.bool_], planes: slice) -> PrecisionRecall:
    return precision_recall(*histograms(probability[planes], truth[planes]))


def _watershed_vi(
    probability: NDArray[np.uint8], truth: NDArray[Any], planes: slice, threshold: int
) -> float:
    """In bits, of neurons made of membranes alone, as ``segment`` makes them of a model that has no more."""
    boundary, ids = alike(probability[planes], truth[planes])
    fragments = split(seeded_fragments(boundary, 255 - threshold, (10.0, 10.0, 10.0)))
    affinities = Evidence((0,), BEFORE, boundary=True, mutex=False).affinities(boundary[None])
    contacts = find_contacts(fragments.astype(np.uint64), affinities, Box.of(fragments.shape))
    voxels = np.bincount(fragments.ravel())[1:]
    root = agglomerate(len(voxels), contacts, voxels, threshold, SMALL)
    found = np.concatenate([[0], root + 1])[fragments]
    counts = (ids > 0) & (np.bincount(ids.ravel())[ids] >= SMALL)
    return float(sum(variation_of_information(Contingency.of(found[counts], ids[counts]))))


def likeness(image: NDArray[Any]) -> dict[str, float]:
    """PSNR and SSIM on the reporting planes, after the best gain and offset, which some images leave open."""
    seen, truth = alike(image[REPORTING].astype(np.float32), em_truth()[REPORTING])
    gain, offset = np.polyfit(seen.ravel().astype(np.float64), truth.ravel().astype(np.float64), 1)
    fitted = (gain * seen + offset).astype(np.float32)
    return {"psnr": psnr(fitted, truth), "ssim": ssim(fitted, truth)}


def trust(image: Path, members: list[Path], probability: NDArray[np.uint8], threshold: int) -> dict[str, Any]:
    """Calibration on the reporting planes, and whether uncertainty finds membrane errors."""
    em, aleatoric, epistemic = (
        pixels(image, name).astype(np.float32) for name in ("em", "aleatoric_sd", "epistemic_sd")
    )
    em, truth = alike(em, em_truth())
    sd = np.hypot(aleatoric, epistemic)[tuple(slice(0, n) for n in em.shape)]
    error = truth - em
    found = calibration.calibration(error[REPORTING], sd[REPORTING])
    observed = calibration.coverage(error[REPORTING], sd[REPORTING], calibration.NOMINAL)
    p, membrane = alike(probability[REPORTING], boundaries(neurons())[REPORTING])
    wrong = (p >= threshold) != membrane
    own, between = (alike(v, wrong)[0] for v in decision_variance(members))
    return {
        "coverage": {f"{k:.2f}": v for k, v in found.coverage.items()},
        "observed": [round(float(v), 4) for v in observed],
        "ece": found.ece,
        "ause": found.ause,
        "scale_left": found.scale,
        "auroc": calibration.auroc(sd[REPORTING], wrong),
        "auroc_around": calibration.auroc(ndimage.uniform_filter(sd[REPORTING], 5), wrong),
        "auroc_between": calibration.auroc(between, wrong),
        "auroc_decision": calibration.auroc(own + between, wrong),
        "auroc_probability": calibration.auroc(-np.abs(p.astype(np.float32) - 127.5), wrong),
    }


def decision_variance(members: list[Path]) -> tuple[Real, Real]:
    """How unsure ``neurons-fib`` is of membranes on the reporting planes: by itself, and for what members of an ensemble
    show it, each of them with another reconstruction of the same scan.

    Of a probability p of each member these are the mean of p (1 - p) and the variance of p, which add up to the variance
    of the decision (law of total variance).
    """
    eyes = Eyes(EYES, "cpu")
    seen = []
    for path in members:
        em = pixels(path, "em").astype(np.float32)[REPORTING.start - AROUND :]
        pad = [(0, -n % s) for n, s in zip(em.shape, eyes.stride, strict=True)]
        with torch.inference_mode():
            p = eyes(torch.from_numpy(np.pad(em, pad, mode="symmetric"))[None, None]).sigmoid()[0].numpy()
        seen.append(p[tuple(slice(0, n) for n in em.shape)][AROUND:])
    return np.asarray(np.mean([p * (1 - p) for p in seen], 0)), np.asarray(np.var(seen, 0))
