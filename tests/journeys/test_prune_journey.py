"""A model made smaller by the window alone: cancelled halfway and resumed, the receipt, kept and used, discarded."""

from __future__ import annotations

import pytest
import torch
from qtpy.QtCore import Qt
from tiny_recipe import RECIPE, write_discs

from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.zoo.card import Card
from connectoscope.zoo.writing import write_bundle

WAIT = 120_000  # ms; processes start slowly on a busy machine


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """A model, a recipe and labelled data; (model, recipe)."""
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path / "models"))
    write_discs(tmp_path)
    recipe = tmp_path / "discs.toml"
    recipe.write_text(RECIPE)
    arguments = UNet3dArguments(1, (8, 16), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),))
    torch.manual_seed(0)
    card = Card.model_validate(
        {
            "schema": 1, "name": "discs", "version": "1", "description": "A test.",
            "architecture": {"name": "unet3d", "arguments": arguments.to_json()},
            "inputs": {"voxel_size": (40, 8, 8)},
            "outputs": [{"name": "synapses", "meaning": "discs", "instances": True}],
            "receptive_field": arguments.receptive_field(), "stride": arguments.total_stride,
            "halo": {"exact": arguments.halo(), "practical": arguments.halo()},
            "licence": "CC0-1.0", "files": (),
        }
    )  # fmt: skip
    return write_bundle(tmp_path / "models" / "discs", card, UNet3d(arguments).state_dict()), recipe


@pytest.mark.timeout(240)
def test_from_form_to_receipt(make_window, qtbot, parent, tmp_path):
    model, recipe = parent
    before = {p.name: p.read_bytes() for p in model.path.iterdir()}
    window = make_window()
    window.commands.trigger(window.commands.find("Models", "Prune"))
    window.task_panel.form.set_values(
        {
            "model": "discs",
            "destination": "discs-small",
            "data": str(recipe),
            "structured": True,
            "density": 0.25,
            "steps": 300,
        }
    )
    window.commands.trigger(window.commands.find("Tools", "Run Task"))
    qtbot.waitUntil(lambda: window.jobs.model.rowCount() == 1, timeout=WAIT)
    watcher = window.jobs.model.watcher(0)
    qtbot.waitUntil(lambda: watcher.last_progress.get("done", 0) >= 100, timeout=WAIT)
    window.commands.trigger(window.commands.find("Tools", "Cancel Job"))
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "cancelled"
    small = tmp_path / "models" / "discs-small"
    assert not small.exists()
    window.commands.trigger(window.commands.find("Tools", "Resume Job"))
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "done", watcher.state.message
    panel = window.plots
    names = {panel.choice.itemText(row).split(" — ")[0] for row in range(panel.choice.count())}
    assert names == {"loss", "units", "accuracy on the choosing planes", "balance"}

    receipt = panel.plan
    qtbot.waitUntil(receipt.isVisible, timeout=WAIT)
    texts = {receipt.table.item(i, 0).text() for i in range(receipt.table.rowCount())}
    assert {"parameters", "seconds per megavoxel", "synapses: average precision"} <= texts
    assert "times as fast" in receipt.verdict.text()
    assert {p.name: p.read_bytes() for p in model.path.iterdir()} == before

    qtbot.mouseClick(receipt.run_button, Qt.MouseButton.LeftButton)
    form = window.task_panel.form
    assert form.task.name == "segment"
    assert form.values()["model"] == "discs-small"  # chosen from the zoo, beside its parent

    qtbot.mouseClick(receipt.discard_button, Qt.MouseButton.LeftButton)
    assert small.exists()  # asks first
    qtbot.mouseClick(receipt.discard_button, Qt.MouseButton.LeftButton)
    assert not small.exists()
    assert receipt.verdict.text() == "discs-small is discarded."
    assert not receipt.discard_button.isVisible()
