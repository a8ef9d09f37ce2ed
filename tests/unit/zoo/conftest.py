"""A model and its bioimage.io package, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from zoo_packages import ARGUMENTS, HALO

from connectoscope.networks.unet3d import UNet3d
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.bioimage import package_bytes
from connectoscope.zoo.card import Card, Companion
from connectoscope.zoo.writing import write_bundle, write_companion


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, ``small``, and its package, ``small.zip``."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    network = UNet3d(ARGUMENTS)
    network.head.weight.data *= 8  # so that probabilities are spread
    card = Card.model_validate(
        {
            "schema": 1, "name": "small", "version": "1", "description": "A test.",
            "architecture": {"name": "unet3d", "arguments": ARGUMENTS.to_json()},
            "inputs": {"voxel_size": (40, 8, 8)},
            "outputs": [
                {"name": "synapses", "meaning": "clefts", "instances": True},
                {"name": "boundary", "meaning": "membranes", "instances": False},
            ],
            "receptive_field": ARGUMENTS.receptive_field(), "stride": ARGUMENTS.total_stride,
            "halo": {"exact": HALO, "practical": HALO}, "licence": "CC0-1.0", "files": (),
            "lineage": [{"made_by": "prune", "parent": {"name": "large"}}], "from_the_future": {"kept": 1},
        }
    )  # fmt: skip
    alone = write_bundle(folder / "small", card, network.state_dict())
    gate = Companion.model_validate(
        {
            "architecture": {"name": "unet3d", "arguments": ARGUMENTS.to_json()}, "factor": (1, 2, 2),
            "voxel_size": (40, 16, 16), "outputs": ("synapses", "boundary"), "halo": (0, 2, 2),
        }
    )  # fmt: skip
    bundle = write_companion(alone.path, alone, gate, network.state_dict())
    (folder / "small.zip").write_bytes(package_bytes(bundle, ("A. Person",)))
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def bundle(made: Path, models: Path) -> Bundle:
    shutil.copytree(made / "small", models / "small")
    return find_model("small")


@pytest.fixture
def package(made: Path, bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "small.zip", tmp_path / "small.bioimage.zip"))
