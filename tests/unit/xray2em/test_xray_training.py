"""The model of X-ray to EM: what is drawn, learned, calibrated and written on its card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_tissue import tissue
from skimage.metrics import structural_similarity

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.networks.upscaling import combined
from connectoscope.tasks.train import Train, run
from connectoscope.training.recipe import Xray, load_recipe
from connectoscope.xray2em.pairs import EmVolume, held_out, main_scan
from connectoscope.xray2em.quality import ssim
from connectoscope.xray2em.training import XrayTrainer, beta_nll


@pytest.fixture
def data(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(trained))
    return trained


def trainer(recipe: Path) -> XrayTrainer:
    parsed = load_recipe(recipe)
    assert parsed.xray is not None
    return XrayTrainer(parsed, parsed.xray, "cpu")


def test_card_says_what_the_model_is_worth_and_that_pairs_are_simulated(trained: Path) -> None:
    card = json.loads((trained / "tiny-xray" / "card.json").read_text())
    assert card["members"] == ["seed 3", "seed 4"]
    assert "no real scan" in card["training"]["pairs"]
    assert [output["name"] for output in card["outputs"]] == ["em", "aleatoric_sd", "epistemic_sd"]
    scores = {score["metric"]: score["value"] for score in card["scores"]}
    assert set(scores) == {"psnr", "ssim", "coverage_50", "coverage_80", "coverage_95", "ece", "ause"}
    assert 0.6 < scores["coverage_80"] < 0.95
    assert {score["split"] for score in card["scores"]} == {"report"}
    calibration = card["calibration"]
    assert 0.5 < calibration["scale"] < 3
    assert calibration["epistemic_sd"] < calibration["trusted_sd"] < 1
    assert calibration["reliability"]["observed"] == sorted(calibration["reliability"]["observed"])


def test_a_patch_is_drawn_from_seed_step_and_place_alone(data: Path) -> None:
    sampler = trainer(data / "tiny.toml").sampler
    xray, em = sampler.batch(5)
    assert (xray.shape, em.shape) == ((4, 1, 12, 12, 12), (4, 1, 36, 36, 36))
    sampler.batch(0)
    again, same = sampler.batch(5)
    assert torch.equal(xray, again)
    assert torch.equal(em, same)
    assert len({float(x.sum()) for x in xray}) == 4  # members see other patches
    coarse = em.reshape(4, 12, 3, 12, 3, 12, 3).mean((2, 4, 6))
    for one, other in zip(xray[:, 0], coarse, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.2  # the same place, the same way round


def test_interrupted_and_resumed_ends_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    text = (data / "tiny.toml").read_text()
    recipe.write_text(
        text.replace("steps = 40", "steps = 6").replace("choose_every = 20", "choose_every = 3")
    )
    whole, cut = trainer(recipe), trainer(recipe)
    whole.run(tmp_path / "whole.safetensors", lambda step, values: None)

    def stop(step: int, values: dict[str, float]) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut.run(tmp_path / "cut.safetensors", stop)
    resumed = trainer(recipe)
    resumed.resume(tmp_path / "cut.safetensors")
    assert resumed.progress.step == 3
    resumed.run(tmp_path / "cut.safetensors", lambda step, values: None)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert resumed.progress.curve == whole.progress.curve


def test_frozen_eyes_change_what_is_learned(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text((data / "tiny.toml").read_text() + 'membranes = "features-em"\n')
    with_eyes, without = trainer(recipe), trainer(data / "tiny.toml")
    assert with_eyes.eyes is not None
    xray, em = with_eyes.sampler.batch(0)
    plain, seen = (each.loss(0, xray, em).item() for each in (without, with_eyes))
    assert seen > plain
    assert not any(p.requires_grad for p in with_eyes.eyes.network.parameters())
    truth = torch.rand(1, 1, 24, 24, 24)
    same, other = (with_eyes.eyes.difference(em, truth).item() for em in (truth, 1 - truth))
    assert other > same


def test_likelihood_is_lowest_at_the_true_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    error = 0.2 * torch.randn(100_000, generator=generator)
    for beta in (0.0, 0.5):
        mean = torch.zeros(1, requires_grad=True)
        log_variance = torch.tensor([2 * np.log(0.2)], requires_grad=True)
        beta_nll(mean, log_variance, error, beta).backward()
        assert abs(float(log_variance.grad)) < 0.01  # type: ignore[arg-type]
        assert abs(float(mean.grad)) < 0.02  # type: ignore[arg-type]


def test_sub_voxels_begin_alike_and_members_differ(data: Path) -> None:
    network = trainer(data / "tiny.toml").network.eval()
    with torch.no_grad():
        one, other = network(torch.randn(1, 1, 8, 8, 8))[:, 0, 0]  # means (24, 24, 24)
    blocks = one.reshape(8, 3, 8, 3, 8, 3)
    assert torch.equal(blocks, blocks[:, :1, :, :1, :, :1].expand_as(blocks))
    assert not torch.allclose(one, other)


def test_variance_of_an_ensemble_is_what_members_say_and_where_they_differ() -> None:
    members = torch.tensor([[[0.2], [np.log(0.01)]], [[0.4], [np.log(0.03)]]])  # (members, 2, voxels)
    mean, aleatoric, epistemic = (float(v) for v in combined(members))
    assert (mean, aleatoric, epistemic) == pytest.approx((0.3, 0.02, 0.01))


def test_ssim_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((16, 20, 24))
    image = np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1)
    expected = structural_similarity(
        image, truth, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, truth) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "scale = 3",
            "scale = 2",
            "made has voxels of 10 × 10 × 10 nm; the network writes isotropic ones of 15",
        ),
        ("scale = 3", "scale = 9", "scale 1 to 4"),
        ("patch = [12, 12, 12]", "patch = [9, 12, 12]", "patches must be multiples"),
        ("patch = [12, 12, 12]", "patch = [16, 12, 12]", "do not fit the training part of made"),
        ('name = "em"', 'name = "boundary"', "the outputs of X-ray to EM are em, aleatoric_sd"),
        ("kernels", "in_channels = 2, kernels", "in_channels = 2, images have 1"),
        (
            "train = [0, 40]\nchoose = [42, 50]\nreport = [52, 66]",
            "train = [0, 99]\nchoose = [0, 0]\nreport = [0, 0]",
            "train = .0, 99. of made is not a range of its 66 planes",
        ),
        ("train = [0, 40]", "train = [40, 40]", "train = .40, 40. of made is not a range"),
        ("report = [52, 66]", "report = [52, 70]", "report = .52, 70. of made is not a range"),
        ("choose = [42, 50]", "choose = [30, 50]", "of made share planes"),
        (
            "choose = [42, 50]",
            "choose = [0, 0]",
            "no volume has planes to choose by; give one some in choose",
        ),
        ("report = [52, 66]", "report = [0, 0]", "no volume has planes to report; give one some in report"),
        ("[xray]", '[xray]\nmembranes = "none"', "there is no model 'none'"),
        ("[xray]", "[xray]\ncounts = [1e5, 1e3]", "counts must be a range"),
        ("unet3d-upscaling", "unet3d", "architecture 'unet3d' does not reconstruct"),
        ("em.ome.tif", "gone.tif", "training data .*gone.tif is missing"),
    ],
)
def test_recipes_that_cannot_be(data: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text((data / "tiny.toml").read_text().replace(old, new))
    with pytest.raises(UserError, match=said):
        run(Train(recipe=str(recipe), destination=str(tmp_path / "out")), Context.local(tmp_path / "job"))
    assert not (tmp_path / "out").exists()


def test_planes_that_fill_no_xray_voxel_are_not_scored(data: Path) -> None:
    recipe = load_recipe(data / "tiny.toml")
    split = recipe.volumes[0].model_copy(update={"choose": (66, 67), "report": (50, 67)})
    volume = EmVolume(tissue((67, 72, 72), 1), 0, 255, 100, 200, 10, split)
    assert held_out(recipe, volume, "choose", 3, main_scan(Xray(), 30), 0) is None
    pair = held_out(recipe, volume, "report", 3, main_scan(Xray(), 30), 0)
    assert pair is not None
    assert pair.scored == slice(50, 66)
    assert len(pair.em) == 66
