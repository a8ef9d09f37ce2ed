"""A small X-ray-like volume, and an untrained model that makes EM of it, with what a card says of calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from connectoscope.networks.upscaling import Upscaling, UpscalingArguments
from connectoscope.volumes import ImageSpec, create_image
from connectoscope.zoo.card import Card
from connectoscope.zoo.writing import write_bundle

SHAPE = (8, 40, 36)
MODEL = "tiny-xray"


def write_xray(path: Path) -> None:
    """(8, 40, 36) uint8 at 30 nm, beginning at (300, 0, 60) nm."""
    pixels = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    spec = ImageSpec(SHAPE, pixels.dtype, (30.0, 30.0, 30.0), (300.0, 0.0, 60.0), "nanometer", SHAPE)
    create_image(path, spec)[0].write(pixels).result()


def write_model(folder: Path) -> None:
    """The bundle :data:`MODEL` in the folder of models."""
    arguments = UpscalingArguments.parse(
        "unet3d-upscaling",
        {"members": 2, "scale": 3, "features": [2, 4], "kernels": [[[3, 3, 3]]] * 2, "strides": [[2, 2, 2]]},
    )
    member = arguments.member
    nominal = [0.2, 0.5, 0.8]
    card = Card.model_validate(
        {
            "schema": 1, "name": MODEL, "version": "1", "description": "A test.",
            "architecture": {"name": "unet3d-upscaling", "arguments": arguments.to_json()},
            "inputs": {"voxel_size": (30, 30, 30)},
            "outputs": [{"name": n, "meaning": "test", "instances": False}
                        for n in ("em", "aleatoric_sd", "epistemic_sd")],
            "receptive_field": member.receptive_field(), "stride": member.total_stride,
            "halo": {"exact": member.halo(), "practical": member.halo()},
            "calibration": {
                "scale": 1.0, "trusted_sd": 0.2, "epistemic_sd": 0.05, "resolution_nm": [60, 130],
                "texture": {"skewness": [-9, 9], "neighbours": [-1, 1]},
                "reliability": {"split": "report", "nominal": nominal, "observed": [0.25, 0.5, 0.75]},
            },
            "licence": "CC0-1.0", "files": (),
        }
    )  # fmt: skip
    write_bundle(folder / MODEL, card, Upscaling(arguments).state_dict())
