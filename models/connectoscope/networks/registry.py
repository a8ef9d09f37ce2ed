"""Architectures by name: a bundle names one and its arguments, never code."""

from __future__ import annotations

from typing import Any

from connectoscope.errors import UserError
from connectoscope.networks import onnx_network, upscaling
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments


def parse_architecture(name: str, arguments: dict[str, Any]) -> UNet3dArguments:
    """The arguments of a registered architecture, checked.

    Raises:
        UserError: for an unknown name or arguments that it does not take.
    """
    if name == upscaling.NAME:
        raise UserError("this model makes EM from X-ray: only 'connectoscope reconstruct' can use it")
    if name == onnx_network.NAME:
        raise UserError(onnx_network.ONLY_SEGMENTS)
    if name != "unet3d":
        raise UserError(
            f"architecture '{name}' is not known here; known: unet3d (is the model from a newer version of connectoscope?)"
        )
    try:
        return UNet3dArguments.parse(arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"architecture {name} cannot be built: {error}") from None


def build_network(name: str, arguments: dict[str, Any]) -> UNet3d:
    """A network with random weights, float32, in training mode."""
    return UNet3d(parse_architecture(name, arguments))
