"""Targets from instance labels: membranes and affinities, in every orientation, and a training on them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.training.augment import orient
from connectoscope.training.instances import UNKNOWN, derive
from connectoscope.training.losses import bce_dice, leave_out
from connectoscope.training.recipe import load_recipe
from connectoscope.training.sampler import Sampler, load_volume
from connectoscope.training.trainer import Trainer

RECIPE = """
name = "tiny"
version = "1"
description = "A test."
seed = 1
licence = "CC0-1.0"
data_licences = []
[architecture]
name = "unet3d"
arguments = { outputs = 3, features = [4, 4], kernels = [[[3, 3, 3]], [[3, 3, 3]]], strides = [[2, 2, 2]] }
[inputs]
voxel_size = [8.0, 8.0, 8.0]
[[outputs]]
name = "boundary"
meaning = "membranes"
instances = false
[[outputs]]
name = "affinity_-1_0_0"
meaning = "near"
instances = false
[[outputs]]
name = "affinity_0_0_-4"
meaning = "far"
instances = false
[[volumes]]
name = "rooms"
published = "nowhere"
raw = "raw.ome.tif"
labels = { neuron = "neuron.ome.tif" }
train = [0, 16]
choose = [18, 22]
report = [22, 24]
[sampling]
patch = [8, 8, 8]
batch = 2
[training]
steps = 4
learning_rate = 1e-2
warm_up = 1
choose_every = 4
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rooms of 6 x 6 x 6 voxels, each of its own grey; ids 0 (unlabelled), 7, 14, …."""
    at = np.indices((24, 24, 24)) // 6
    ids = (at[0] * 16 + at[1] * 4 + at[2]).astype(np.uint16)
    facts = {"axes": "ZYX"} | {f"PhysicalSize{a}": 8 for a in "XYZ"}
    facts |= {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    tifffile.imwrite(tmp_path / "neuron.ome.tif", ids * 7, metadata=facts)
    tifffile.imwrite(tmp_path / "raw.ome.tif", (ids * 3).astype(np.uint8), metadata=facts)
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def plain_boundary(ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    def around(place: tuple[int, ...]) -> list[tuple[int, ...]]:
        steps = [tuple(int(i) for i in step) for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int))]
        places = [tuple(a + b for a, b in zip(place, step, strict=True)) for step in steps]
        return [p for p in places if all(0 <= i < n for i, n in zip(p, ids.shape, strict=True))]

    edge = {p for p in np.ndindex(ids.shape) if any(ids[q] != ids[p] for q in around(p))}
    found = np.zeros(ids.shape, bool)
    for place in edge | {q for p in edge for q in around(p)}:
        found[place] = True
    return found


def test_targets_are_what_the_data_page_says() -> None:
    ids = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).repeat(2, 1).astype(np.int32)
    membrane, near, far = derive(ids, ["boundary", "affinity_-1_0_0", "affinity_0_2_-3"])
    assert (membrane[ids == 0] == UNKNOWN).all()
    np.testing.assert_array_equal(membrane[ids > 0], plain_boundary(ids)[ids > 0])
    for place in np.ndindex(ids.shape):
        for target, offset in ((near, (-1, 0, 0)), (far, (0, 2, -3))):
            other = tuple(a + b for a, b in zip(place, offset, strict=True))
            inside = all(0 <= i < n for i, n in zip(other, ids.shape, strict=True))
            known = inside and ids[place] > 0 and ids[other] > 0
            assert target[place] == ((ids[place] == ids[other]) if known else UNKNOWN)


@pytest.mark.parametrize(("shape", "orientations"), [((3, 3, 3), 48), ((2, 3, 3), 16)])
def test_a_patch_is_seen_in_every_orientation(shape: tuple[int, ...], orientations: int) -> None:
    image = torch.arange(float(np.prod(shape))).reshape(shape)
    seen = set()
    for seed in range(600):
        turned, ids = orient(image, image.int(), torch.Generator().manual_seed(seed))
        assert torch.equal(turned, ids.float())
        assert turned.shape == shape
        seen.add(tuple(turned.flatten().tolist()))
    assert len(seen) == orientations


@pytest.mark.parametrize(("z", "turned"), [(8.0, True), (9.0, True), (10.0, False), (40.0, False)])
def test_sections_lie_on_their_side_in_isotropic_voxels_only(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, z: float, turned: bool
) -> None:
    """The image is its planes' numbers: they stay planes where voxels are longer along z."""
    monkeypatch.setattr("connectoscope.training.sampler.intensity", lambda image, generator: image)
    parsed = load_recipe(recipe)
    volume = load_volume(parsed, parsed.volumes[0])
    numbers = np.broadcast_to(np.arange(24, dtype=np.float32)[:, None, None], volume.image.shape)
    recipe.write_text(RECIPE.replace("voxel_size = [8.0", f"voxel_size = [{z}"))
    sampler = Sampler(load_recipe(recipe), [replace(volume, image=numbers)])
    images = [sampler.patch(step, 0)[0] for step in range(20)]
    assert any(image.std((1, 2)).any() for image in images) == turned


def test_targets_are_derived_after_the_turn(recipe: Path) -> None:
    parsed = load_recipe(recipe)
    volume = load_volume(parsed, parsed.volumes[0])
    assert volume.labels.shape == (3, 24, 24, 24)
    sampler = Sampler(parsed, [volume])
    _, labels = sampler.batch(3)
    assert labels.shape == (2, 3, 8, 8, 8)
    assert (labels[:, 1, 0] == -1).all()  # the voxels before lie outside of the patch
    assert (labels[:, 2, :, :, :4] == -1).all()
    assert {0.0, 1.0} <= set(labels.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_nothing_is_learned_from_what_is_unknown() -> None:
    logits = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    labels = (torch.rand(1, 2, 3, 3, 3) < 0.5).float()
    same = leave_out(logits, labels)
    assert torch.equal(same[0], logits)
    assert torch.equal(same[1], labels)
    labels[..., 0] = -1
    bce_dice(*leave_out(logits, labels), 0.5).backward()
    assert logits.grad is not None
    assert not logits.grad[..., 0].any()
    assert logits.grad[..., 1:].all()


def test_a_training_on_instances_runs_and_scores(recipe: Path, tmp_path: Path) -> None:
    parsed = load_recipe(recipe)
    trainer = Trainer(parsed, [load_volume(parsed, parsed.volumes[0])], "cpu")
    said: dict[str, float] = {}
    trainer.run(tmp_path / "checkpoint", lambda step, values: said.update(values))
    assert {"choose/boundary", "choose/affinity_-1_0_0", "choose/affinity_0_0_-4"} <= set(said)


def test_how_neurons_are_made_has_no_part_in_the_signature(recipe: Path) -> None:
    text = recipe.read_text()
    plain = load_recipe(recipe)
    volumes = [load_volume(plain, plain.volumes[0])]
    recipe.write_text(text + "[neurons]\nthreshold = 99\n")
    tuned = load_recipe(recipe)
    assert tuned.neurons is not None
    assert Trainer(plain, volumes, "cpu").signature == Trainer(tuned, volumes, "cpu").signature
    before = plain.model_dump_json().replace(',"neurons":null,"xray":null', "")  # as it was without them
    said = Trainer(plain, volumes, "cpu").signature["the recipe"]
    assert said == hashlib.sha256(before.encode()).hexdigest()


def test_what_cannot_be_derived_is_named(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace('"affinity_-1_0_0"', '"synapses"'))
    parsed = load_recipe(recipe)
    with pytest.raises(UserError, match="no label for the output 'boundary'"):
        load_volume(parsed, parsed.volumes[0])
    recipe.write_text(RECIPE.replace("patch = [8, 8, 8]", "patch = [8, 8, 12]"))
    parsed = load_recipe(recipe)
    with pytest.raises(UserError, match="square"):
        Sampler(parsed, [load_volume(parsed, parsed.volumes[0])])
    recipe.write_text(RECIPE.replace("patch = [8, 8, 8]", "patch = [8, 32, 32]"))
    parsed = load_recipe(recipe)
    with pytest.raises(UserError, match="32 × 32 pixels do not fit the 24 × 24 of rooms"):
        Sampler(parsed, [load_volume(parsed, parsed.volumes[0])])
