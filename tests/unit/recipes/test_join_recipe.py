"""A model trained on and joined with others by the recipes' scripts."""

from __future__ import annotations

from pathlib import Path

import join_models
import numpy as np
import pytest
import torch
import train_parts
from tiny_recipe import RECIPE

from connectoscope.jobs.context import Context
from connectoscope.tasks.train import Train
from connectoscope.tasks.train import run as train
from connectoscope.zoo import find_model


@pytest.fixture
def model(discs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(train_parts, "CHOOSE_EVERY", 3)
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(RECIPE)
    train(Train(recipe="tiny.toml", destination="tiny"), Context.local(tmp_path / "train.job", threads=1))
    return tmp_path / "tiny"


def script(module, monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    monkeypatch.setattr("sys.argv", line.split())
    return int(module.main())


def test_the_best_weights_of_each_output_are_joined(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "train_parts tiny.toml on --from ./tiny --steps 9 --until 6 --learning-rate 1e-3"
    assert script(train_parts, monkeypatch, words) == 0
    made = find_model(Path("on/synapses"))
    curve = made.card.training["curve"]
    assert [row["step"] for row in curve] == [3, 6]
    best = max(curve, key=lambda row: row["choose/synapses"])
    assert made.card.training["chosen_step"] == best["step"]
    assert made.parent == "tiny"
    assert script(train_parts, monkeypatch, words.replace("until 6", "until 3")) == 2  # it is past that
    assert script(train_parts, monkeypatch, words.replace("until 6", "until 7").replace(" on ", " off ")) == 2
    with pytest.raises(SystemExit, match="2"):
        script(train_parts, monkeypatch, "train_parts tiny.toml off --steps 9")
    assert not Path("off").exists()
    Path("short.toml").write_text(RECIPE.replace("choose_every = 20", "choose_every = 3"))
    assert script(train_parts, monkeypatch, "train_parts short.toml anew --until 3") == 0
    assert [row["step"] for row in find_model(Path("anew/synapses")).card.training["curve"]] == [3]
    assert made.card.scores[0].value == pytest.approx(best["choose/synapses"], abs=0.05)

    words = "join_models tiny.toml both --version 2 --part ./tiny 0.25 --part on/synapses 0.75"
    assert script(join_models, monkeypatch, words) == 0
    both = find_model(Path("both"))
    image = torch.from_numpy(np.random.default_rng(0).random((1, 1, 4, 32, 32), np.float32))
    with torch.inference_mode():
        first, second, joined = (m.load_network().eval()(image) for m in (find_model(model), made, both))
    torch.testing.assert_close(joined, 0.25 * first + 0.75 * second, atol=0.02, rtol=0)
    assert (both.card.version, both.parent) == ("2", None)
    assert [part["shares"] for part in both.card.lineage[-1]["parts"]] == [[0.25], [0.75]]
    assert script(join_models, monkeypatch, words) == 2
    assert script(join_models, monkeypatch, words.replace("both", "smooth") + " --smooth 1.5") == 0
    smooth = find_model(Path("smooth"))
    assert smooth.load_network().arguments.smooth == (1.5,)
    assert smooth.card.scores[0].command.endswith("--smooth 1.5")
    assert script(join_models, monkeypatch, words.replace("both", "other").replace(" 0.75", "")) == 2
    assert not Path("other").exists()
