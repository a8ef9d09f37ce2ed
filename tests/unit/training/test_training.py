"""Patches depend on seed and step only; a training that was interrupted ends with the same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_recipe import made

from connectoscope.errors import Cancelled, UserError
from connectoscope.jobs.context import Context
from connectoscope.jobs.engine import execute
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.tasks.train import Train, run
from connectoscope.training.augment import blur, turn, warp
from connectoscope.training.instances import UNKNOWN
from connectoscope.training.recipe import find_data, load_recipe
from connectoscope.training.sampler import LabelledVolume, Sampler, load_volume
from connectoscope.training.trainer import Trainer, learning_rate
from connectoscope.zoo import find_model
from connectoscope.zoo.places import bundled_models

RECIPE = made(features=[4, 4], kernels=[[[1, 3, 3]], [[3, 3, 3]]], steps=8, rate=1e-2, average=0.5, every=4)


@pytest.fixture
def recipe(discs: None, tmp_path: Path) -> Path:
    """A recipe that learns the discs."""
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def loaded(path: Path) -> tuple[Trainer, list[LabelledVolume]]:
    recipe = load_recipe(path)
    volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
    return Trainer(recipe, volumes, "cpu"), volumes


def test_a_patch_is_drawn_from_seed_and_step_alone(recipe: Path) -> None:
    parsed = load_recipe(recipe)
    volumes = [load_volume(parsed, entry) for entry in parsed.volumes]
    first, second = Sampler(parsed, volumes), Sampler(parsed, volumes)
    first.batch(0)  # drawing others before does not matter
    image, labels = first.batch(5)
    again, same = second.batch(5)
    assert image.shape == (2, 1, 4, 32, 32)
    assert labels.shape == (2, 1, 4, 32, 32)
    assert torch.equal(image, again)
    assert torch.equal(labels, same)
    assert not torch.equal(first.batch(6)[0], image)
    assert set(labels.unique().tolist()) <= {0.0, 1.0}


def test_geometry_moves_image_and_labels_together() -> None:
    labels = torch.zeros(1, 3, 48, 48)
    labels[:, :, 10:22, 14:34] = 1
    image, moved = warp(labels[0].clone(), labels, (32, 32), torch.Generator().manual_seed(4))
    assert ((image >= 0.5) == (moved[0] > 0)).float().mean() > 0.999


def test_plain_patches_hold_stored_voxels_only(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("batch = 2", "batch = 2\nplain = 1.0\nplain_from = 3"))
    parsed = load_recipe(recipe)
    volumes = [load_volume(parsed, entry) for entry in parsed.volumes]
    image, labels = torch.rand(3, 40, 40), torch.zeros(1, 3, 40, 40)
    turned, _ = turn(image, labels, (32, 32), torch.Generator().manual_seed(0))
    assert set(turned.flatten().tolist()) == set(image[:, 4:36, 4:36].flatten().tolist())
    changed = Sampler(parsed, volumes)
    recipe.write_text(RECIPE)
    before = Sampler(load_recipe(recipe), volumes)
    assert torch.equal(changed.batch(2)[0], before.batch(2)[0])
    assert not torch.equal(changed.batch(3)[0], before.batch(3)[0])


def test_blur_keeps_the_mean() -> None:
    image = torch.rand(2, 40, 40)
    assert blur(torch.ones(1, 20, 20), 1.5).sub(1).abs().max() < 1e-5
    assert abs(float(blur(image, 1.0).mean() - image.mean())) < 0.01


def test_rate_warms_up_and_falls(recipe: Path) -> None:
    parsed = load_recipe(recipe)
    rates = [learning_rate(parsed, step) for step in range(8)]
    assert rates[0] == pytest.approx(5e-3)
    assert max(rates) == pytest.approx(1e-2)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_resumed_equals_uninterrupted(recipe: Path, tmp_path: Path) -> None:
    def quiet(step: int, values: dict[str, float]) -> None:
        assert all(np.isfinite(v) for v in values.values())

    whole, _ = loaded(recipe)
    whole.run(tmp_path / "whole", quiet)

    class Saved(Trainer):
        """Stops right after the checkpoint of step 4, as a kill would."""

        def save(self, path: Path) -> None:
            super().save(path)
            if self.progress.step == 4:
                raise KeyboardInterrupt

    parsed = load_recipe(recipe)
    volumes = [load_volume(parsed, entry) for entry in parsed.volumes]
    with pytest.raises(KeyboardInterrupt):
        Saved(parsed, volumes, "cpu").run(tmp_path / "part", quiet)
    resumed, _ = loaded(recipe)
    resumed.resume(tmp_path / "part")
    assert resumed.progress.step == 4
    resumed.run(tmp_path / "part", quiet)
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name
    for name, value in whole.best.items():
        assert torch.equal(value, resumed.best[name]), name


@pytest.mark.parametrize("every", [4, 10, 100])
def test_a_cancelled_training_keeps_all_its_updates(recipe: Path, tmp_path: Path, every: int) -> None:
    path = tmp_path / "longer.toml"
    path.write_text(
        recipe.read_text().replace("steps = 8", "steps = 12").replace("every = 4", f"every = {every}")
    )

    def cancelled(step: int, values: dict[str, float]) -> None:
        seen.append((step, *values))
        if step >= 10 or every == 4:
            raise Cancelled("cancelled; what was finished is kept")

    seen: list[tuple[object, ...]] = []
    whole, _ = loaded(path)
    whole.run(tmp_path / "whole", lambda step, values: None)
    trainer, _ = loaded(path)
    with pytest.raises(Cancelled):
        trainer.run(tmp_path / "part", cancelled)
    resumed, _ = loaded(path)
    resumed.resume(tmp_path / "part")
    assert resumed.progress.step == (4 if every == 4 else 10)
    resumed.run(tmp_path / "part", lambda step, values: None)
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name
    assert resumed.progress.curve == whole.progress.curve
    assert [step for step, *names in seen if "choose/mean" in names] == ([every] if every < 100 else [])


@pytest.mark.filterwarnings("ignore:.*which is a no-op")
def test_a_checkpoint_goes_to_the_device_of_the_training(recipe: Path, tmp_path: Path) -> None:
    """No GPU here: PyTorch's device without memory shows where tensors are put."""
    trainer, volumes = loaded(recipe)
    trainer.save(tmp_path / "checkpoint")
    other = Trainer(trainer.recipe, volumes, "meta")
    other.resume(tmp_path / "checkpoint")
    kept = (other.network.state_dict(), other.average, other.best)
    assert {tensor.device.type for state in kept for tensor in state.values()} == {"meta"}


def test_checkpoint_of_another_recipe_is_refused(recipe: Path, tmp_path: Path) -> None:
    trainer, _ = loaded(recipe)
    trainer.save(tmp_path / "c")
    recipe.write_text(RECIPE.replace("seed = 1", "seed = 2"))
    other, _ = loaded(recipe)
    with pytest.raises(UserError, match="the recipe changed since checkpoint"):
        other.resume(tmp_path / "c")
    with safe_open(tmp_path / "c", "pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, tmp_path / "c", metadata=facts | {"signature": "f00d"})
    with pytest.raises(UserError, match=r"another version of Connectoscope.*--overwrite"):
        trainer.resume(tmp_path / "c")
    (tmp_path / "c").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        trainer.resume(tmp_path / "c")


def test_train_makes_a_bundle_that_runs(recipe: Path, tmp_path: Path) -> None:
    summary = run(
        Train(recipe=str(recipe), destination=str(tmp_path / "tiny-model")), Context.local(tmp_path / "job")
    )
    bundle = find_model(tmp_path / "tiny-model")
    assert summary["steps"] == 8
    assert bundle.card.stride == (1, 2, 2)
    assert bundle.card.training["seed"] == 1
    assert all(p <= e for p, e in zip(bundle.card.halo.practical, bundle.card.halo.exact, strict=True))
    ready = bundle.predictor(tile=(4 + 2 * bundle.card.halo.practical[0], 32, 32))
    assert ready(np.zeros(ready.tile, np.float32)).shape == (1, *ready.core)
    curve = [json.loads(line) for line in (tmp_path / "job" / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in curve if e["type"] == "metric" and "choose/mean" in e["values"]] == [4, 8]
    with pytest.raises(UserError, match="exists"):
        run(
            Train(recipe=str(recipe), destination=str(tmp_path / "tiny-model")),
            Context.local(tmp_path / "job2"),
        )


def test_a_finished_training_is_not_made_again_unasked(recipe: Path, tmp_path: Path) -> None:
    asked = {"recipe": str(recipe), "destination": str(tmp_path / "tiny-model")}
    job = JobFolder.create(JobRequest.make("train", asked, device="cpu", keep_job=True))
    assert execute(job) == 0
    card = tmp_path / "tiny-model" / "card.json"
    card.write_text(card.read_text().replace('"A test."', '"Mine."'))
    weights = (tmp_path / "tiny-model" / "weights.safetensors").stat().st_mtime_ns
    again = JobFolder.create(JobRequest.make("train", asked, device="cpu"))
    assert execute(again) == 2
    assert "exists; choose another name" in again.state().message
    assert '"Mine."' in card.read_text()
    assert (tmp_path / "tiny-model" / "weights.safetensors").stat().st_mtime_ns == weights


def test_a_training_that_goes_on_replaces_no_model_but_its_own(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny-model"
    asked = {"recipe": str(recipe), "destination": str(out)}
    job = JobFolder.create(JobRequest.make("train", asked, device="cpu"))
    job.events().write("progress", done=4, total=8, phase="training")  # and then its process was killed
    shutil.copytree(bundled_models() / "membrane-vnc", out)
    before = (out / "card.json").read_bytes()
    assert execute(job) == 2
    assert (out / "card.json").read_bytes() == before
    shutil.rmtree(out)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:  # once the model is there
        patch.setattr(Context, "result", killed)
        assert execute(job) == 3
    assert (out / "card.json").exists()
    assert execute(job) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 8", "steps = 0"), "steps"),
        (("steps = 8", "stepps = 8"), "steps"),
        (("seed = 1", "seed = "), "not TOML"),
        (("train = [0, 6]", "train = [0, 3]"), "do not fit"),
        (("labels = { synapses", "labels = { other"), "no label for the output"),
        (("raw.ome.tif", "gone.ome.tif"), "is missing; get it from nowhere"),
        (("centred = { synapses", "centred = { cells"), "centred names"),
        (("report = [8, 10]", "report = [8, 99]"), "report = .8, 99. of .* is not a range of its"),
        (("train = [0, 6]", "train = [-2, 4]"), "is not a range of its"),
        (("choose = [6, 8]", "choose = [6, 6]"), "choose = .6, 6. of .* is not a range of its"),
        (("choose = [6, 8]", "choose = [4, 8]"), "train = .0, 6. and choose = .4, 8. of discs share planes"),
        (
            ("choose = [6, 8]", "choose = [6, 9]"),
            "choose = .6, 9. and report = .8, 10. of discs share planes",
        ),
        (("outputs = 1", "outputs = 2"), "has 2 outputs, the recipe names 1"),
        (("outputs = 1", "outputs = 1, in_channels = 2"), "in_channels = 2, images have 1"),
        (
            ("patch = [4, 32, 32]", "plain = 0.5\npatch = [4, 80, 80]"),
            "80 × 80 pixels do not fit the 64 × 64 of discs",
        ),
        (("patch = [4, 32, 32]", "patch = [4, 33, 33]"), "multiples of the network's total stride"),
        (('name = "tiny', 'name = "my tiny'), "name: String should match"),
        (("voxel_size =", "percentiles = [99, 1]\nvoxel_size ="), "the lower one first"),
    ],
)
def test_bad_recipes_are_named(recipe: Path, change: tuple[str, str], message: str) -> None:
    recipe.write_text(RECIPE.replace(*change))
    with pytest.raises(UserError, match=message):
        loaded(recipe)


def test_warped_patches_may_be_wider_than_the_image(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("patch = [4, 32, 32]", "patch = [4, 80, 80]"))
    trainer, _ = loaded(recipe)
    image, labels = trainer.sampler.batch(0)
    assert image.shape == labels.shape == (2, 1, 4, 80, 80)


@pytest.mark.parametrize(
    ("value", "what"), [(0, "all background"), (1, "all of one class, without background")]
)
@pytest.mark.parametrize(("planes", "said"), [((0, 6), "training"), ((6, 8), "choosing")])
def test_an_output_that_no_plane_or_all_of_them_hold_is_refused(
    recipe: Path, planes: tuple[int, int], said: str, value: int, what: str
) -> None:
    parsed = load_recipe(recipe)
    volume = load_volume(parsed, parsed.volumes[0])
    lacking = replace(volume, labels=volume.labels.copy())
    lacking.labels[:, slice(*planes)] = value
    lacking.labels[:, planes[0]] = UNKNOWN
    with pytest.raises(UserError, match=f"recipe tiny: labels of synapses are {what} in the {said} planes"):
        Trainer(parsed, [lacking], "cpu")
    Trainer(parsed, [lacking, volume], "cpu")  # one of several is enough


def test_missing_recipe_and_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(Path("no-such-recipe.toml"))
    (tmp_path / "image.tif").write_bytes(b"II*\0\xff\xfe\x80")
    with pytest.raises(UserError, match="is not TOML"):
        load_recipe(tmp_path / "image.tif")
    with pytest.raises(UserError, match="CONNECTOSCOPE_DATA"):
        find_data("no/such.tif", "the moon")
