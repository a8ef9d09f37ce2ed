"""``connectoscope prune``: a smaller model with a receipt, resumed exactly; refusals in one line; the parent untouched."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from tiny_recipe import RECIPE

from connectoscope import cli
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.pruning.receipt import rows
from connectoscope.pruning.recipes import of_model
from connectoscope.pruning.report import balance_line
from connectoscope.tasks.prune import Prune, run
from connectoscope.tasks.train import Train
from connectoscope.tasks.train import run as train
from connectoscope.training.recipe import load_recipe
from connectoscope.zoo import find_model


@pytest.fixture
def tiny(discs, tmp_path, monkeypatch):
    """A recipe of bright discs, and a model that it trained; (recipe, model)."""
    monkeypatch.setattr("connectoscope.pruning.run.TIMED", (8, 64, 64))
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    train(
        Train(recipe=str(path), destination=str(tmp_path / "tiny")),
        Context.local(tmp_path / "train.job", threads=1),
    )
    return path, tmp_path / "tiny"


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def prune(tiny, out, job, **more):
    recipe, model = tiny
    asked = {"model": str(model), "data": str(recipe), "steps": 60, "density": 0.4} | more
    return run(Prune(destination=str(out), **asked), Context.local(job, threads=1))


@pytest.mark.parametrize("how", [{}, {"actuator": "both"}, {"structured": True}, {"rule": "rigl"}], ids=str)
def test_a_pruned_model_is_smaller_and_says_of_whom(tiny, tmp_path, how):
    before = files(tiny[1])
    summary = prune(tiny, tmp_path / "small", tmp_path / "prune.job", **how)
    made, parent = find_model(tmp_path / "small"), find_model(tiny[1])
    assert files(tiny[1]) == before
    receipt = summary["receipt"]
    assert receipt["after"]["weights_not_0"] < 0.75 * receipt["before"]["weights_not_0"]
    lineage = made.card.lineage[-1]
    assert lineage["parent"]["hash"] == parent.hash
    assert lineage["density"] == 0.4
    assert made.card.name == "small"
    assert 0 < receipt["after"]["average_precision"]["synapses"] <= 1
    network = made.load_network()
    if how.get("structured"):  # really smaller, not only masked
        assert network.arguments.widths
        assert receipt["after"]["macs_per_voxel"] < 0.7 * receipt["before"]["macs_per_voxel"]
        assert receipt["after"]["parameters"] < receipt["before"]["parameters"]


@pytest.mark.parametrize(("structured", "at"), [(False, 40), (True, 10), (True, 50)])
def test_interrupted_and_resumed_gives_the_same_weights(tiny, tmp_path, structured, at):
    prune(tiny, tmp_path / "whole", tmp_path / "a.job", structured=structured)

    class Stopped(Exception):
        pass

    class Stopping(Context):
        def progress(self, done, total, phase, **extra):
            if done == at:
                raise Stopped

    recipe, model = tiny
    asked = Prune(
        model=str(model),
        data=str(recipe),
        destination=str(tmp_path / "half"),
        steps=60,
        density=0.4,
        structured=structured,
    )
    with pytest.raises(Stopped):
        run(asked, Stopping.local(tmp_path / "b.job", threads=1))
    assert not (tmp_path / "half").exists()
    run(asked, Context.local(tmp_path / "b.job", threads=1))
    whole, half = files(tmp_path / "whole"), files(tmp_path / "half")
    assert whole["weights.safetensors"] == half["weights.safetensors"]


def test_another_density_does_not_go_on_from_a_checkpoint(tiny, tmp_path):
    prune(tiny, tmp_path / "one", tmp_path / "a.job")
    with pytest.raises(UserError, match="an option of the pruning changed since"):
        prune(tiny, tmp_path / "two", tmp_path / "a.job", density=0.5)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"density": 0.01}, "can, a density of"),
        ({"rule": "set", "structured": True}, r"whole channels \(--structured\) need --rule"),
        ({"rule": "magnitude", "density": 0.001}, "would lose all its inputs"),
        ({"rule": "magnitude", "actuator": "in"}, "--actuator in has no part in pruning by rule magnitude"),
        (
            {"structured": True, "actuator": "both"},
            "--actuator both has no part in pruning by whole channels",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_training(tiny, tmp_path, how, text):
    with pytest.raises(UserError, match=text):
        prune(tiny, tmp_path / "x", tmp_path / "a.job", **how)
    assert not (tmp_path / "x").exists()


def test_a_recipe_without_the_models_output_and_the_parent_as_destination_are_refused(tiny, tmp_path):
    model = tiny[1]
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("synapses", "mitochondria"))
    with pytest.raises(UserError, match="labels for mitochondria, model 'tiny' makes synapses"):
        prune((other, model), tmp_path / "x", tmp_path / "a.job")
    with pytest.raises(UserError, match="exists; choose another name"):
        prune(tiny, model, tmp_path / "b.job")


def recipe_of(tiny, tmp_path, **change):
    """What prune makes of the recipe with other text in it, and the warnings."""
    path = tmp_path / "other.toml"
    text = RECIPE
    for old, new in change.values():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    context = Context.local(tmp_path / "recipe.job", threads=1)
    asked = Prune(model=str(tiny[1]), data=str(path), destination="small")
    return of_model(
        load_recipe(path), find_model(tiny[1]), "small", asked.seed, context.warn
    ), context.warnings


def test_the_new_model_keeps_the_licences_voxel_size_and_neurons_of_the_model(tiny, tmp_path):
    card = tiny[1] / "card.json"
    neurons = {"fragments": "boundary", "threshold": 99, "min_volume_nm3": 5.0}
    said = {"licence": "CC-BY-NC-SA-4.0", "data_licences": ["a: NC", "b: free"], "neurons": neurons}
    card.write_text(json.dumps(json.loads(card.read_text()) | said))
    made, warnings = recipe_of(
        tiny,
        tmp_path,
        licence=("CC0-1.0", "MIT"),
        data=("data_licences = []", 'data_licences = ["b: free", "c: BY"]'),
        size=("[40.0, 8.0, 8.0]", "[40.0, 8.05, 8.0]"),
    )
    assert made.licence == "CC-BY-NC-SA-4.0"
    assert made.data_licences == ("a: NC", "b: free", "c: BY")
    assert made.neurons.threshold == 99
    assert made.inputs.voxel_size == (40, 8, 8)
    assert len(warnings) == 1
    assert "stays the model's, CC-BY-NC-SA-4.0" in warnings[0]
    own = ("[training]", "[neurons]\nthreshold = 50\n[training]")
    made, warnings = recipe_of(tiny, tmp_path, neurons=own, licence=("CC0-1.0", "CC-BY-NC-SA-4.0"))
    assert (made.neurons.threshold, warnings) == (50, [])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("[40.0, 8.0, 8.0]", "[40.0, 4.0, 4.0]"), r"40 × 4 × 4 nm, model 'tiny' sees 40 × 8 × 8: write"),
        (
            ("[[outputs]]", "percentiles = [0, 100]\n[[outputs]]"),
            "percentiles 0 and 100, model 'tiny' by 1 and 99",
        ),
    ],
)
def test_a_recipe_of_another_scale_is_refused(tiny, tmp_path, change, text):
    with pytest.raises(UserError, match=text):
        recipe_of(tiny, tmp_path, change=change)


@pytest.mark.parametrize("how", [{"rule": "magnitude"}, {"structured": True}, {"actuator": "both"}], ids=str)
def test_the_card_tells_what_ran(tiny, tmp_path, how):
    prune((tiny[0], tiny[1].rename(tmp_path / "parent")), tmp_path / "small", tmp_path / "a.job", **how)
    card = find_model(tmp_path / "small").card
    training, facts = card.training["recipe"]["training"], card.lineage[-1]
    assert training["steps"] == (
        40 if how.get("structured") else 60
    )  # the part with the channels that are left
    assert training["learning_rate"] == 1e-2  # half of the recipe's
    assert facts["parent"]["name"] == "parent"  # its folder; the recipe that made it is called otherwise
    (command,) = {score.command for score in card.scores}
    assert command.startswith("connectoscope prune parent OUT")
    assert ("actuator" in facts, "--actuator" in command) == ("actuator" in how, "actuator" in how)


def test_a_parent_that_changes_before_a_resume_is_named(tiny, tmp_path):
    prune(tiny, tmp_path / "one", tmp_path / "a.job")
    model = tiny[1]
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("seed = 1", "seed = 2").replace("steps = 40", "steps = 20"))
    shutil.rmtree(model)
    train(Train(recipe=str(other), destination=str(model)), Context.local(tmp_path / "b.job", threads=1))
    with pytest.raises(UserError, match=r"^the model that is pruned changed since checkpoint"):
        prune(tiny, tmp_path / "two", tmp_path / "a.job")


def test_a_receipt_without_units_that_change_has_no_likeness():
    columns = [
        {
            "parameters": 1, "weights_not_0": 1, "macs_per_voxel": 1.0, "seconds_per_megavoxel": 1.0, "entropy": 0.5,
            "likeness": likeness, "average_precision": {}, "f1": {},
        }
        for likeness in (0.25, None)
    ]  # fmt: skip
    assert rows(*columns)[-1] == ["mean |correlation| of units", "0.250", "-"]


@pytest.mark.parametrize("density", ["0", "1.5", "-1"])
def test_a_density_out_of_range_ends_with_2(tmp_path, capsys, density):
    arguments = ["prune", "synapse-vnc", str(tmp_path / "x"), "--data", "r.toml", "--density", density]
    assert cli.run(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_summary_is_json_and_the_report_one_page(tiny, tmp_path):
    page = tmp_path / "report.html"
    summary = prune(tiny, tmp_path / "small", tmp_path / "prune.job", steps=50, report=str(page))
    json.dumps(summary)
    text = page.read_text()
    assert "encoders.0.1" in text
    assert f"{summary['receipt']['after']['parameters']:,}" in text
    assert text.count("<circle") == 6 + 6 + 8 + 6 + 6  # all units but those that only the head reads
    assert "http" not in text
    with pytest.raises(UserError, match=r"report\.html exists"):
        prune(tiny, tmp_path / "another", tmp_path / "another.job", steps=50, report=str(page))
    assert page.read_text() == text


def test_the_balance_line_is_least_squares():
    rates = np.array([0.5, 0.1, 0.9])
    assert balance_line(np.array([3, 5, 1]), rates) == pytest.approx((2 / np.log(9), 1.0))
    assert balance_line(np.array([2, 2, 2]), rates) == (0.0, 0.0)
