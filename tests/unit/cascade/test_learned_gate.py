"""A gate learns from a model where it finds something, and nothing else about the model changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from connectoscope.cascade import distillation, learned
from connectoscope.cascade.distillation import ranking
from connectoscope.cascade.learned import gate_geometry, learned_gate, parse_factor
from connectoscope.errors import Cancelled, UserError
from connectoscope.jobs.context import Context
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.segmentation.targets import choose_targets
from connectoscope.tasks.train_gate import TrainGate, run
from connectoscope.volumes.pyramid import downsample
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.card import CARD, GATE, WEIGHTS, Card
from connectoscope.zoo.writing import write_bundle

ARGUMENTS = UNet3dArguments(2, (1,), (((3, 3, 3),),), ())
CORE = (8, 8, 8)


def make_model(path: Path, **changes: object) -> Bundle:
    """A model that finds what is bright: the mean of 3 x 3 x 3 voxels against a level."""
    network = UNet3d(ARGUMENTS)
    for name, value in network.state_dict().items():
        value.fill_(0)
        if name.endswith(("running_var", "1.weight")):
            value.fill_(1)
    state = network.state_dict()
    state["encoders.0.0.0.weight"].fill_(1 / 27)
    state["encoders.0.0.1.bias"].fill_(0.5)
    state["head.weight"].fill_(40)
    state["head.bias"].fill_(-20)
    values = {
        "schema": 1, "name": "bright", "version": "1", "description": "A test.",
        "architecture": {"name": "unet3d", "arguments": ARGUMENTS.to_json()},
        "inputs": {"voxel_size": (8, 8, 8), "normalisation": {"low": 0, "high": 100}},
        "outputs": [
            {"name": "synapses", "meaning": "", "instances": True, "min_volume_nm3": 20 * 512},
            {"name": "boundary", "meaning": "", "instances": False},
        ],
        "receptive_field": ARGUMENTS.receptive_field(), "stride": (1, 1, 1),
        "halo": {"exact": (1, 1, 1), "practical": (1, 1, 1)}, "licence": "CC0-1.0", "files": (),
    } | changes  # fmt: skip
    return write_bundle(path, Card.model_validate(values), network.state_dict())


def write_volume(path: Path, blobs: int, *, sized: bool = True, seed: int = 0) -> np.ndarray:
    """Bright balls on noise; gives the image."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 15, (48, 64, 64))
    z, y, x = np.indices(image.shape)
    for c in rng.integers(4, (44, 60, 60), (blobs, 3)):
        image[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < 16] += 140
    image[0, 0, :2] = 0, 255  # the percentiles 0 and 100
    image = np.clip(image, 0, 255).astype(np.uint8)
    facts = {"axes": "ZYX"}
    if sized:
        facts |= {f"PhysicalSize{a}": 8 for a in "XYZ"} | {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    tifffile.imwrite(path, image, metadata=facts)
    return image


@pytest.fixture(autouse=True)
def _own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(distillation, "BATCH", 2)
    monkeypatch.setattr(learned, "FEATURES", (16, 16))


def train(tmp_path: Path, **parameters: object) -> dict:
    values = {
        "model": str(tmp_path / "bright"), "destination": str(tmp_path / "gated"), "on": str(tmp_path / "raw.ome.tif"),
        "steps": 40,
    } | parameters  # fmt: skip
    return run(TrainGate(**values), Context.local(tmp_path / "job", threads=1))


def score_all(bundle: Bundle, image: np.ndarray) -> np.ndarray:
    targets, _ = choose_targets(bundle.card, (), None, None)
    found = learned_gate(bundle, targets, CORE, (0.0, 255.0), threads=1)
    assert found is not None
    factor, gate = found
    coarse = downsample(image.astype(np.float32), factor, labels=False)
    padded = np.pad(coarse, [(h, h) for h in gate.halo], mode="symmetric")
    scores = np.zeros([n // c for n, c in zip(coarse.shape, CORE, strict=True)])
    for place in np.ndindex(scores.shape):
        where = tuple(slice(p * c, p * c + c + 2 * h) for p, c, h in zip(place, CORE, gate.halo, strict=True))
        scores[place] = gate(padded[where])
    return scores


def test_the_gate_finds_the_cells_in_which_the_model_finds_something(tmp_path: Path) -> None:
    model = make_model(tmp_path / "bright")
    write_volume(tmp_path / "raw.ome.tif", 12)
    summary = train(tmp_path)
    gated = find_model(tmp_path / "gated")
    new = write_volume(tmp_path / "new.ome.tif", 6, seed=1)
    scores = score_all(gated, new)
    bright = (new > 150).reshape(3, 16, 4, 16, 4, 16).sum((1, 3, 5))
    assert bright.max() > 20
    clear = (bright > 20) | (bright == 0)  # not those that a ball just touches
    assert ranking(scores[clear].astype(np.float32), bright[clear] > 20)["cell_auc"] > 0.9
    assert summary["cells"]["synapses"][0] > 0
    # The model itself is the same, and known to be.
    assert gated.hash == model.hash
    assert model.gate_hash is None
    assert gated.gate_hash is not None
    assert (gated.path / WEIGHTS).read_bytes() == (model.path / WEIGHTS).read_bytes()
    assert gated.card.companion is not None
    assert gated.card.companion.outputs == ("synapses",)
    assert gated.card.companion.factor == (2, 2, 2)
    assert {f.name for f in gated.card.files} == {WEIGHTS, GATE}
    kinds = [
        json.loads(line)["type"] for line in (tmp_path / "job" / "events.jsonl").read_text().splitlines()
    ]
    assert {"progress", "metric", "result"} <= set(kinds)


def test_same_seed_same_gate_and_a_second_one_replaces_it(tmp_path: Path) -> None:
    make_model(tmp_path / "bright")
    write_volume(tmp_path / "raw.ome.tif", 12)
    train(tmp_path, steps=2)
    first = find_model(tmp_path / "gated")
    train(tmp_path, steps=2, destination=str(tmp_path / "again"))
    assert (tmp_path / "again" / GATE).read_bytes() == (first.path / GATE).read_bytes()
    train(tmp_path, steps=2, seed=1, model=str(first.path), destination=str(tmp_path / "other"))
    other = find_model(tmp_path / "other")
    assert other.hash == first.hash
    assert other.gate_hash != first.gate_hash
    assert len(other.card.files) == 2


def test_damaged_or_missing_gate(tmp_path: Path) -> None:
    model = make_model(tmp_path / "bright")
    targets, _ = choose_targets(model.card, (), None, None)
    assert learned_gate(model, targets, CORE, (0, 255)) is None
    with pytest.raises(UserError, match="has no companion; make one"):
        model.load_gate()
    write_volume(tmp_path / "raw.ome.tif", 12)
    train(tmp_path, steps=1)
    data = bytearray((tmp_path / "gated" / GATE).read_bytes())
    data[-1] ^= 1
    (tmp_path / "gated" / GATE).write_bytes(data)
    gated = find_model(tmp_path / "gated")
    gated.load_network()
    with pytest.raises(UserError, match=r"gate of .* damaged"):
        learned_gate(gated, targets, CORE, (0, 255))
    (tmp_path / "gated" / GATE).unlink()
    with pytest.raises(UserError, match=r"gate of .* cannot be read"):
        learned_gate(gated, targets, CORE, (0, 255))
    card = json.loads((tmp_path / "gated" / CARD).read_text())
    card["companion"]["outputs"] = ["somata"]
    (tmp_path / "gated" / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match="outputs that the model has not: somata"):
        find_model(tmp_path / "gated")


def test_cells_of_any_shape_and_what_is_in_them(tmp_path: Path) -> None:
    make_model(tmp_path / "bright")
    write_volume(tmp_path / "raw.ome.tif", 12)
    train(tmp_path, steps=1)
    gated = find_model(tmp_path / "gated")
    targets, _ = choose_targets(gated.card, (), None, None)
    _, gate = learned_gate(gated, targets, (5, 7, 3), (0, 255))  # type: ignore[misc]
    shape = [c + 2 * h for c, h in zip((5, 7, 3), gate.halo, strict=True)]
    cell = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    assert 0 < gate(cell) < 1
    assert gate(cell) == gate(cell)
    cell[0, 0, 0] = np.nan
    zero = cell.copy()
    zero[0, 0, 0] = 0
    assert gate(cell) == gate(zero)
    assert gate(np.full(shape, 7, np.float32)) == 0
    with pytest.raises(ValueError, match="takes cells of"):
        gate(cell[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": ("boundary",)}, "makes no objects of boundary"),
        ({"target": ("somata",)}, "has no target 'somata'"),
        ({"factor": "2,2"}, "--factor: three whole numbers"),
        ({"box": "0:2,0:3,0:3"}, "too small to train a gate on"),
        ({"box": "0:1,0:64,0:64"}, "too small to train a gate on"),
        ({"on": "empty.ome.tif"}, r"finds no synapses in \d+ boxes"),
        ({"on": "unsized.ome.tif"}, "does not state its voxel size"),
        ({"destination": "bright"}, "exists; choose another name"),
    ],
)
def test_one_line_says_what_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path / "bright")
    write_volume(tmp_path / "raw.ome.tif", 12)
    write_volume(tmp_path / "empty.ome.tif", 0)
    write_volume(tmp_path / "unsized.ome.tif", 12, sized=False)
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "gated").exists()


def test_cancelled_leaves_nothing(tmp_path: Path) -> None:
    make_model(tmp_path / "bright")
    write_volume(tmp_path / "raw.ome.tif", 12)
    context = Context.local(tmp_path / "job", threads=1)
    context.job.cancel()
    values = {"model": str(tmp_path / "bright"), "destination": str(tmp_path / "gated")}
    with pytest.raises(Cancelled):
        run(TrainGate(on=str(tmp_path / "raw.ome.tif"), **values), context)
    assert not (tmp_path / "gated").exists()


def test_the_coarse_level_follows_the_voxels() -> None:
    sections = gate_geometry((50, 4, 4), 1, None)
    assert sections.factor == (1, 2, 2)
    assert sections.arguments.stem == (1, 4, 4)
    assert gate_geometry((8, 8, 8), 1, None).factor == (2, 2, 2)
    assert gate_geometry((50, 4, 4), 1, parse_factor("1,4,4")).voxel_size == (50, 16, 16)
    for text in ("1,1,1", "0,2,2", "a,2,2", "2"):
        with pytest.raises(UserError, match="--factor"):
            parse_factor(text)


def test_ranking_of_cells() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.2], np.float32)
    positive = np.array([True, True, False, True, False])
    row = ranking(scores, positive)
    assert row["cell_auc"] == pytest.approx(5 / 6)
    assert row["pass_rate_at_0.98"] == pytest.approx(4 / 5)
    assert ranking(scores, np.zeros(5, bool)) == {}
    tied = ranking(np.zeros(4, np.float32), np.array([True, False, False, False]))
    assert tied == pytest.approx({"cell_auc": 0.5, "pass_rate_at_0.95": 1.0, "pass_rate_at_0.98": 1.0})
