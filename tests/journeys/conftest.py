"""The window of the app tests, and a model small enough to run in a second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "app"))
sys.path.insert(0, str(Path(__file__).parent.parent / "plugin"))
sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "volumes"))
sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "adaptation"))

from window_fixtures import fresh_configuration, make_window

__all__ = ["fresh_configuration", "make_window"]


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    """A tiny untrained network under the name of the bundled model; everything is foreground: one object."""
    import torch

    from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
    from connectoscope.zoo.card import Card
    from connectoscope.zoo.writing import write_bundle

    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    arguments = UNet3dArguments(2, (2, 4), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),))
    torch.manual_seed(0)
    network = UNet3d(arguments)
    output = {"meaning": "test", "threshold": 1, "min_volume_nm3": 0.0}
    card = Card.model_validate(
        {
            "schema": 1, "name": "synapse-vnc", "version": "0", "description": "A test.",
            "architecture": {"name": "unet3d", "arguments": arguments.to_json()},
            "inputs": {"voxel_size": (47.5, 4.6, 4.6)},
            "outputs": [{**output, "name": "synapses", "instances": True},
                        {**output, "name": "boundary", "instances": False}],
            "receptive_field": arguments.receptive_field(), "stride": arguments.total_stride,
            "halo": {"exact": arguments.halo(), "practical": arguments.halo()},
            "licence": "CC0-1.0", "files": (),
        }
    )  # fmt: skip
    return write_bundle(tmp_path / "models" / "synapse-vnc", card, network.state_dict())
