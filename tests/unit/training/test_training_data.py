"""What a training reads: not-a-numbers, channels, labels that cannot be meant, inputs that change before a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from tiny_recipe import made

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.train import Train, run
from connectoscope.training.losses import check_finite
from connectoscope.training.recipe import load_recipe
from connectoscope.training.sampler import Sampler, load_volume
from connectoscope.training.trainer import Trainer
from connectoscope.zoo import find_model

RECIPE = made(features=[4, 4], kernels=[[[1, 3, 3]], [[3, 3, 3]]], steps=4, rate=1e-2, average=0.5, every=2)


@pytest.fixture
def recipe(discs: None, tmp_path: Path) -> Path:
    """A recipe that learns the discs, (10, 64, 64)."""
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def save(path: Path, array: np.ndarray, pixel: float = 8, axes: str = "ZYX") -> None:
    facts = {"axes": axes, "PhysicalSizeX": pixel, "PhysicalSizeY": pixel, "PhysicalSizeZ": 40}
    tifffile.imwrite(path, array, metadata=facts | {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"})


def trainer(path: Path) -> Trainer:
    recipe = load_recipe(path)
    return Trainer(recipe, [load_volume(recipe, entry) for entry in recipe.volumes], "cpu")


def test_what_is_no_number_outside_of_the_sample_is_0_and_told_of(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tifffile.imread(tmp_path / "raw.ome.tif").astype(np.float32)
    raw[:, 10:20, 10:20] = np.nan
    raw[0, 0, 0] = np.inf
    save(tmp_path / "raw.ome.tif", raw)
    # As of a volume of which boxes are sampled, elsewhere.
    monkeypatch.setattr("connectoscope.training.sampler.intensity_range", lambda *_: (20.0, 200.0))
    monkeypatch.setattr("connectoscope.training.finish.write_signature", lambda bundle, *_, **__: bundle)
    summary = run(
        Train(recipe=str(recipe), destination=str(tmp_path / "new")),
        Context.local(tmp_path / "train.job", threads=1),
    )
    assert summary["warnings"] == ["discs: 1001 voxels were not numbers or infinite and were taken as 0"]
    state = find_model(tmp_path / "new").load_network().state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_loss_that_is_no_number_stops_before_the_weights_change(recipe: Path, tmp_path: Path) -> None:
    learning = trainer(recipe)
    learning.volumes[0].image[:] = np.nan
    before = {name: value.clone() for name, value in learning.network.named_parameters()}
    with pytest.raises(UserError, match="no finite number at update 1: take a smaller learning rate"):
        learning.run(tmp_path / "checkpoint", lambda step, values: None)
    assert all(torch.equal(value, before[name]) for name, value in learning.network.named_parameters())
    assert check_finite(torch.tensor(2.5), torch.tensor(1.0), 1) == 2.5
    with pytest.raises(UserError, match="at update 7"):
        check_finite(torch.tensor(2.5), torch.tensor(float("inf")), 7)


def test_scores_may_be_log_likelihoods(recipe: Path, tmp_path: Path) -> None:
    """They have no least one: the best is kept also where all are below -1."""
    said = iter((-1.6, -1.2, -1.4))

    class Scored(Trainer):
        def scores(self) -> dict[str, float]:
            return {"log likelihood": next(said)}

    recipe.write_text(RECIPE.replace("steps = 4", "steps = 6"))
    parsed = load_recipe(recipe)
    volumes = [load_volume(parsed, entry) for entry in parsed.volumes]
    learning = Scored(parsed, volumes, "cpu")
    learning.run(tmp_path / "checkpoint", lambda step, values: None)
    assert (learning.progress.best_score, learning.progress.best_step) == (-1.2, 4)
    assert Trainer(parsed, volumes, "cpu").progress.best_score == float("-inf")


def test_the_loss_that_is_told_is_the_mean_of_the_updates(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("steps = 4", "steps = 10"))
    learned: list[float] = []
    told: list[float] = []

    class Heard(Trainer):
        def loss(self, step: int, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            loss = super().loss(step, image, labels)
            learned.append(float(loss.detach()))
            return loss

    parsed = load_recipe(recipe)
    volumes = [load_volume(parsed, entry) for entry in parsed.volumes]
    Heard(parsed, volumes, "cpu").run(
        tmp_path / "checkpoint",
        lambda step, values: told.extend([values["loss"]] if "loss" in values else []),
    )
    assert told == [pytest.approx(sum(learned) / 10)]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("learning_rate = 0.01", "learning_rate = nan", "learning_rate: .* finite"),
        ("learning_rate = 0.01", "learning_rate = inf", "learning_rate: .* finite"),
        ("[40.0, 8.0, 8.0]", "[40.0, inf, 8.0]", "voxel_size.1: .* finite"),
        ("{ synapses = 0.5 }", "{ synapses = 5.0 }", "centred: .* shares of the patches"),
        ("{ synapses = 0.5 }", "{ synapses = -0.5 }", "centred: .* shares of the patches"),
        ("{ synapses = 0.5 }", "{ synapses = 0.6, other = 0.6 }", "centred: .* shares of the patches"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(recipe: Path, old: str, new: str, text: str) -> None:
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(UserError, match=text):
        load_recipe(recipe)


def test_patches_are_turned_in_square_pixels_only(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("[40.0, 8.0, 8.0]", "[40.0, 8.0, 16.0]"))
    parsed = load_recipe(recipe)
    with pytest.raises(UserError, match="as long along y as along x, not 40 × 8 × 16 nm"):
        Sampler(parsed, [load_volume(parsed, parsed.volumes[0])])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda labels: {"array": labels.astype(np.float32)},
            r"hold float32 values; labels are whole numbers",
        ),
        (
            lambda labels: {"array": labels, "pixel": 4},
            "have voxels of .*: they must be on the voxels of the volume",
        ),
        (lambda labels: {"array": np.stack([labels, labels]), "axes": "CZYX"}, "has 2 channels"),
        (lambda labels: {"array": labels[:, 1:]}, "they must agree"),
    ],
)
def test_labels_that_cannot_be_of_the_image_are_refused(recipe, tmp_path, change, text):
    labels = tifffile.imread(tmp_path / "labels.ome.tif")
    save(tmp_path / "labels.ome.tif", **change(labels))
    with pytest.raises(UserError, match=text):
        trainer(recipe)


def test_one_of_several_channels_is_chosen_in_the_recipe(recipe: Path, tmp_path: Path) -> None:
    alone = trainer(recipe).volumes[0]
    raw = tifffile.imread(tmp_path / "raw.ome.tif")
    save(tmp_path / "raw.ome.tif", np.stack([255 - raw, raw]), axes="CZYX")
    with pytest.raises(UserError, match=r"discs has channels .*: choose one in its \[\[volumes\]\]"):
        trainer(recipe)
    recipe.write_text(RECIPE.replace("[[volumes]]", "[[volumes]]\nchannel = 1"))
    chosen = trainer(recipe).volumes[0]
    np.testing.assert_array_equal(chosen.image, alone.image)
    assert chosen.warnings == ()


def test_what_was_assumed_of_a_volume_is_said(recipe: Path, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "raw.ome.tif", tifffile.imread(tmp_path / "raw.ome.tif"), ome=False)
    summary = run(
        Train(recipe=str(recipe), destination=str(tmp_path / "new")),
        Context.local(tmp_path / "train.job", threads=1),
    )
    assert any(text.startswith("discs: ") for text in summary["warnings"])
    told = "the new model has no signature, so 'adapt rank' cannot judge it: "
    assert [text for text in summary["warnings"] if text.startswith(told) and "voxel size" in text]


@pytest.mark.parametrize(("name", "said"), [("raw", "the image of discs"), ("labels", "the labels of discs")])
def test_inputs_that_change_before_a_resume_are_named(
    recipe: Path, tmp_path: Path, name: str, said: str
) -> None:
    checkpoint = tmp_path / "checkpoint"
    trainer(recipe).save(checkpoint)
    trainer(recipe).resume(checkpoint)
    path = tmp_path / f"{name}.ome.tif"
    values = tifffile.imread(path)
    values[:, :8] = values[:, :8][:, ::-1]
    values[0, 0, 0] ^= 1
    save(path, values)
    with pytest.raises(UserError, match=f"^{said} changed since checkpoint .*: put back what was there"):
        trainer(recipe).resume(checkpoint)
