"""From trained weights to a bundle: calibrated on the choosing part, scored on the reporting part, all of it on the card."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.normalise import normalise, sample_boxes
from connectoscope.networks.upscaling import Upscaling, combined
from connectoscope.training.finish import as_shipped, smallest_halo
from connectoscope.volumes.geometry import Index3
from connectoscope.xray2em.calibration import NOMINAL, calibration, coverage, scale_factor
from connectoscope.xray2em.pairs import Pair, main_scan
from connectoscope.xray2em.quality import psnr, ssim
from connectoscope.xray2em.real_pairs import RealPair
from connectoscope.xray2em.registration import Registration
from connectoscope.xray2em.texture import NAMES, texture
from connectoscope.xray2em.training import XrayTrainer, reconstruct, scored_scans
from connectoscope.zoo.bundle import Bundle
from connectoscope.zoo.card import Card
from connectoscope.zoo.writing import write_bundle

Real = NDArray[np.float32]

SIDE = 128  # X-ray rows and columns of the scans that calibrate
CORE = 24  # X-ray voxels a side on which the practical halo is measured
TRUSTED = 99.0  # percentile of the calibrating voxels' sd: beyond it hardly anything was ever checked
LIKE = 0.5  # what a scan's texture may lie outside the range of the calibrating ones, in widths of that range
AROUND_ONE = (0.2, 0.02, 0.1)  # and, of a real scan, around it


def finish(trainer: XrayTrainer, network: Upscaling, out: Path) -> Bundle:
    """Write the bundle of a finished training."""
    recipe, arguments, device = trainer.recipe, trainer.arguments, trainer.device
    network = as_shipped(network)
    member = arguments.member
    exact, stride = member.halo(), member.total_stride
    main = main_scan(trainer.xray, trainer.voxel_nm)
    practical = _practical_halo(network, trainer.pairs("choose", [main], SIDE), exact, stride)
    network = network.to(device)
    choosing = trainer.pairs("choose", scored_scans(trainer), SIDE)
    found = calibrated(network, choosing, device, _textures(trainer.real))
    scores, observed = reported(network, trainer.pairs("report", [main]), found["scale"], device)
    low, high = recipe.inputs.percentiles
    if trainer.real is None or trainer.registration is None:
        told = _of_simulated(trainer)
    else:
        told = _of_real(trainer, trainer.real, trainer.registration)
    card = Card.model_validate(
        {
            "schema": 1,
            "name": recipe.name,
            "version": recipe.version,
            "description": told.description,
            "architecture": {"name": recipe.architecture.name, "arguments": arguments.to_json()},
            "members": [f"seed {recipe.seed + k}" for k in range(arguments.members)],
            "inputs": {
                "voxel_size": recipe.inputs.voxel_size,
                "normalisation": {"method": "percentile", "low": low, "high": high},
            },
            "outputs": [{"name": o.name, "meaning": o.meaning, "instances": False} for o in recipe.outputs],
            "receptive_field": member.receptive_field(),
            "stride": stride,
            "halo": {"exact": exact, "practical": practical},
            "training": {
                **told.training,
                "steps": trainer.progress.step,
                "chosen_step": trainer.progress.best_step,
                "seed": recipe.seed,
                "seconds": round(trainer.progress.seconds),
                "curve": trainer.progress.curve,
                "torch": torch.__version__,
            },
            "scores": [
                {
                    "metric": name,
                    "value": round(value, 4),
                    "data": told.scored,
                    "split": "report",
                    "command": told.command,
                }
                for name, value in scores.items()
            ],
            "calibration": {
                **found,
                "split": "choose",
                "reliability": {
                    "split": "report",
                    "nominal": NOMINAL.round(2).tolist(),
                    "observed": observed,
                },
                **told.conditions,
            },
            "licence": recipe.licence,
            "data_licences": told.data_licences,
            "files": (),
        }
    )
    return write_bundle(out, card, network.state_dict())


@dataclass(frozen=True)
class _Told:
    """What a card says of the pairs: ``training`` and ``conditions`` are parts of its tables."""

    description: str
    data_licences: tuple[str, ...]
    training: dict[str, Any]
    scored: str
    command: str
    conditions: dict[str, Any]


def _of_simulated(trainer: XrayTrainer) -> _Told:
    recipe, xray = trainer.recipe, trainer.xray
    data = ", ".join(v.name for v in recipe.volumes if v.report[0] < v.report[1])
    return _Told(
        recipe.description,
        recipe.data_licences,
        {
            "recipe": recipe.model_dump(mode="json"),
            "pairs": "simulated: X-ray scans were made from EM by the surrogate of the forward model; no real scan was "
            "seen in training, calibration or scores",
            "data": [v.name for v in recipe.volumes],
            "splits": {
                v.name: {"train": v.train, "choose": v.choose, "report": v.report} for v in recipe.volumes
            },
        },
        f"{data}; scans simulated by the surrogate, {xray.scored[0]:g} nm and {xray.scored[1]:g} photons per pixel",
        "connectoscope train RECIPE OUT",
        {"resolution_nm": xray.resolution, "counts": xray.counts},
    )


def _of_real(trainer: XrayTrainer, pair: RealPair, registration: Registration) -> _Told:
    """The recipe's volumes, description and licences of data are of simulated scans: nothing of them holds here."""
    xray, em, transform = pair.names
    seen = trainer.voxel_nm
    return _Told(
        f"EM at {seen / pair.scale:g} nm from X-ray at {seen:g} nm, with aleatoric and epistemic uncertainty; learned from one "
        f"real pair, {xray} and {em}.",
        (),
        {
            "recipe": trainer.recipe.model_dump(mode="json", exclude={"volumes", "data_licences"}),
            "pairs": f"real pairs: {xray} (X-ray) and {em} (EM), joined by {transform}; training, calibration and scores are "
            f"of this one scan, planes apart ({pair.gap} X-ray planes between them)",
            "data": [xray, em],
            "splits": {f"{xray}, X-ray planes": dict(pair.parts)},
            "transform_nm": pair.transform[:3].tolist(),
            "registration": registration.to_json(pair),
        },
        f"{xray} and {em}, a real pair",
        "connectoscope train RECIPE OUT --xray XRAY --em EM --transform TRANSFORM",
        {},
    )


def _textures(pair: RealPair | None) -> list[tuple[float, ...]]:
    """Of all of a real scan, as 'reconstruct' will see it, and as far around it as those of simulated scans reach."""
    if pair is None:
        return []
    boxes = sample_boxes(pair.xray.shape)
    whole = np.array(texture(normalise(pair.read_xray(box), *pair.xray_range) for box in boxes))
    return [tuple(whole - AROUND_ONE), tuple(whole + AROUND_ONE)]


def calibrated(
    network: Upscaling, pairs: Iterable[Pair], device: str, known: Iterable[tuple[float, ...]] = ()
) -> dict[str, Any]:
    """The factor that makes the network's sd mean what it says, and what usual scans look like.

    ``scale`` is of maximum likelihood over all pairs, each of which counts the same: what is calibrated for is a new volume,
    which may be like a small one of these. ``trusted_sd`` and ``epistemic_sd`` are with it. ``texture`` are
    ranges of :func:`connectoscope.xray2em.texture.texture`, of the pairs and of what else is ``known``.
    """
    squares, variances, epistemics = [], [], []
    textures: list[tuple[float, ...]] = list(known)
    for pair in pairs:
        mean, aleatoric, epistemic = (v[pair.scored] for v in reconstruct(network, pair.xray, device))
        variances.append((aleatoric + epistemic).ravel())
        squares.append(scale_factor((pair.em[pair.scored] - mean).ravel(), np.sqrt(variances[-1])) ** 2)
        epistemics.append(epistemic.ravel())
        textures.append(texture([pair.xray]))
    sd = np.sqrt(np.concatenate(variances))
    scale = float(np.sqrt(np.mean(squares)))
    low, high = np.min(textures, 0), np.max(textures, 0)
    room = LIKE * (high - low)
    return {
        "scale": round(scale, 4),
        "trusted_sd": round(scale * float(np.percentile(sd, TRUSTED)), 4),
        "epistemic_sd": round(scale * float(np.sqrt(np.median(np.concatenate(epistemics)))), 5),
        "texture": {
            name: [round(float(low[k] - room[k]), 4), round(float(high[k] + room[k]), 4)]
            for k, name in enumerate(NAMES)
        },
    }


def reported(
    network: Upscaling, pairs: Iterable[Pair], scale: float, device: str
) -> tuple[dict[str, float], list[float]]:
    """Scores of all reporting voxels (PSNR and SSIM: means over the volumes), and the observed coverage of each
    :data:`NOMINAL` one.
    """
    errors, sds, ratios, similarities = [], [], [], []
    for pair in pairs:
        mean, aleatoric, epistemic = (v[pair.scored] for v in reconstruct(network, pair.xray, device))
        truth = pair.em[pair.scored]
        errors.append((truth - mean).ravel())
        sds.append(scale * np.sqrt(aleatoric + epistemic).ravel())
        ratios.append(psnr(mean, truth))
        similarities.append(ssim(mean, truth))
    error, sd = np.concatenate(errors), np.concatenate(sds)
    found = calibration(error, sd)
    scores = {"psnr": float(np.mean(ratios)), "ssim": float(np.mean(similarities))}
    scores |= {f"coverage_{round(100 * nominal)}": share for nominal, share in found.coverage.items()}
    scores |= {"ece": found.ece, "ause": found.ause}
    return scores, [round(float(share), 4) for share in coverage(error, sd, NOMINAL)]


def _practical_halo(network: Upscaling, pairs: Iterable[Pair], exact: Index3, stride: Index3) -> Index3:
    folded = fold_batch_norm(network).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def predict(tile: Real, halo: Index3) -> NDArray[np.int16]:
        with torch.inference_mode():
            mean, aleatoric, epistemic = combined(
                folded(torch.from_numpy(tile.copy())[None, None], halo)[:, 0]
            )
        told = torch.stack((mean, (aleatoric + epistemic).sqrt()))
        return np.asarray(torch.floor(told * 255 + 0.5).numpy(), np.int16)

    tiles = []
    for pair in pairs:
        core = [-(-min(CORE, n) // s) * s for n, s in zip(pair.xray.shape, stride, strict=True)]
        padded = np.pad(
            pair.xray, [(e + c, e + c) for e, c in zip(exact, core, strict=True)], mode="symmetric"
        )
        middle = [n // 2 for n in padded.shape]
        tiles.append(
            padded[
                tuple(
                    slice(m - c // 2 - e, m - c // 2 + c + e)
                    for m, c, e in zip(middle, core, exact, strict=True)
                )
            ]
        )
    return smallest_halo(predict, tiles, exact, stride)
