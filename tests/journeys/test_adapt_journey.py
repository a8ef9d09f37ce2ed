"""New tissue by the window alone: the nearest model, patches, labels painted, training, kept; and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from made_domains import membranes, random_bundle, save, tissue
from qtpy.QtCore import Qt

from connectoscope.adaptation.labelling import Labelling
from connectoscope.adaptation.patches import read_patches
from connectoscope.adaptation.signature import Part, write_signature
from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.tasks.adapt.suggest import AdaptSuggest
from connectoscope.tasks.adapt.suggest import run as suggest
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.zoo import find_model

WAIT = 120_000  # ms; processes start slowly on a busy machine
VECTORS = 24


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The common network and two models: ``near`` is signed with tissue like the volume's, ``far`` with other."""
    folder = tmp_path / "models"
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(folder))
    random_bundle(folder / "features-em", seed=7)
    for name, look in (("near", "inverted"), ("far", "grainy")):
        image = save(tmp_path / f"{name}.ome.tif", tissue(1, look)[0])
        write_signature(
            random_bundle(folder / name), [Part(open_volume(image), None, 0)], folder / name, count=VECTORS
        )
    return folder


@pytest.fixture
def volume(tmp_path, models):
    """Tissue that no model has seen: (its file, its membranes)."""
    image, cells = tissue(2, "inverted")
    return save(tmp_path / "new.ome.tif", image), membranes(cells)


def run_form(window, qtbot, **values):
    """Run what the form says, to its end."""
    window.task_panel.form.set_values(values)
    rows = window.jobs.model.rowCount()
    window.commands.trigger(window.commands.find("Tools", "Run Task"))
    qtbot.waitUntil(lambda: window.jobs.model.rowCount() == rows + 1, timeout=WAIT)
    watcher = window.jobs.model.watcher(0)
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "done", watcher.state.message


def click(qtbot, button):
    """As a user: not before it is laid out, which comes after it is shown."""
    qtbot.waitUntil(lambda: not button.visibleRegion().isEmpty(), timeout=WAIT)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


@pytest.mark.timeout(300)
def test_from_unknown_volume_to_kept_model(make_window, qtbot, volume, models, tmp_path):
    path, truth = volume
    window = make_window()
    window.open_volume(str(path))
    qtbot.waitUntil(lambda: len(window.viewer.layers) == 1, timeout=WAIT)

    window.commands.trigger(window.commands.find("Adapt", "Rank Models"))
    run_form(window, qtbot, model=["near", "far"], vectors=VECTORS)
    ranking, plots = window.plots.plan, window.plots
    qtbot.waitUntil(ranking.isVisible, timeout=WAIT)
    assert [ranking.table.item(row, 0).text() for row in range(2)] == ["near", "far"]
    assert ranking.verdict.text().startswith("near is nearest")
    assert plots.view.plot.name == "domains"
    assert ranking.run_button.text() == "Segment with near…"
    click(qtbot, ranking.run_button)
    form = window.task_panel.form
    assert (form.task.name, form.values()["model"]) == ("segment", "near")
    assert form.values()["source"] == str(path)

    click(qtbot, ranking.suggest_button)
    form = window.task_panel.form
    assert (form.task.name, form.values()["model"]) == ("adapt suggest", "near")
    run_form(window, qtbot, patch="4,40,40")
    panel = window.labels
    qtbot.waitUntil(lambda: panel.plane.text() == "patch1: plane 3 of 4", timeout=WAIT)
    patches = read_patches(panel.labelling.path).patches
    assert [layer.name for layer in window.viewer.layers] == ["new", "Patches", "patch1 · membranes"]
    assert not panel.train_button.isEnabled()

    for patch in patches:
        layer = window.viewer.layers.selection.active
        assert layer.metadata["connectoscope"]["patch"] == patch.id
        assert layer.mode == "paint"
        qtbot.waitUntil(lambda layer=layer: is_drawn(layer), timeout=WAIT)
        wanted = truth[patch.voxels.slices]
        for value in (0, 1):
            layer.data_setitem(np.nonzero((wanted == value) & (layer.data != value)), value)
        window.commands.trigger(window.commands.find("Adapt", "Patch Done"))
    assert panel.bar.value() == 4
    for patch in patches:
        np.testing.assert_array_equal(saved(panel, patch), truth[patch.voxels.slices])

    first = panel.layers["boundary", "patch1"]
    panel.go(0)
    layer = panel.layers["boundary", "patch1"]
    layer.paint((1, 20, 20), 1)
    panel.go(1)
    panel.go(0)
    assert window.viewer.layers.selection.active is first
    qtbot.keyClick(window.panes.active.canvas.native, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.data, truth[patches[0].voxels.slices])

    click(qtbot, panel.train_button)
    form = window.task_panel.form
    values = form.values()
    assert (values["model"], values["on"], values["target"]) == ("near", str(path), ["membranes"])
    assert values["destination"] == "near-new"
    run_form(window, qtbot, steps=40, learning_rate=5e-3)
    receipt = plots.plan
    qtbot.waitUntil(lambda: "held back" in receipt.verdict.text(), timeout=WAIT)
    assert receipt.verdict.text().startswith("The fine-tuned weights are kept")
    before, after = (float(receipt.table.item(0, column).text()) for column in (1, 2))
    assert after > before + 0.2
    assert any(plots.choice.itemText(row).startswith("loss") for row in range(plots.choice.count()))
    assert find_model("near-new").card.lineage[-1]["patches"] == 4
    click(qtbot, receipt.run_button)
    values = window.task_panel.form.values()
    assert (values["model"], values["target"], values["source"]) == ("near-new", ["membranes"], str(path))
    click(qtbot, receipt.discard_button)
    click(qtbot, receipt.discard_button)
    assert not (models / "near-new").exists()
    assert (models / "near").exists()


def is_drawn(layer):
    """napari slices in a thread; nothing can be painted before."""
    return layer._slice.image.raw.shape == layer.data.shape[1:]


def saved(panel, patch):
    labels = open_volume(panel.labelling.place("boundary", patch.id))
    return labels.read(Box.of(labels.shape))


# A person's window: two patches are done and trained on, the third is being painted. Tells each stroke.
WINDOW = """
import sys, time
import numpy as np
from connectoscope_app.start import make_application, make_window
application = make_application()
window = make_window(application)
from qtpy.QtCore import QTimer
panel = window.labels
def train():
    panel.finish(); panel.finish(); panel.train_button.click()
    window.task_panel.form.set_values({"steps": STEPS, "learning_rate": 5e-3})
    window.task_panel.run()
    return True
count = 0
def paint():
    global count
    if window.jobs.model.rowCount():
        panel._current_layer().data_setitem(tuple(np.array([i]) for i in (0, count // 40 % 40, count % 40)), 2)
        count += 1
        print(count, time.time(), flush=True)
steps = [lambda: window.open_volume(sys.argv[1]) or True, lambda: panel._current == 0, train, paint]
def tick():
    if steps[0]():
        steps.pop(0)
timer = QTimer(); timer.timeout.connect(tick); timer.start(100)
application.exec()
""".replace("STEPS", "100")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.timeout(300)
def test_killed_while_labelling_and_training(make_window, qtbot, volume, models, tmp_path):
    path, truth = volume
    todo = tmp_path / "new.patches.json"
    asked = AdaptSuggest(source=str(path), destination=str(todo), model="near", patch="4,40,40")
    suggest(asked, Context.local(tmp_path / "suggest.job", threads=1))
    earlier = Labelling(todo)
    for patch in earlier.file.patches[:2]:
        earlier.save("boundary", patch.id, truth[patch.voxels.slices])
    job = JobFolder(models / "near-new.job")
    log = tmp_path / "strokes.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", WINDOW, str(todo)], stdout=out, env=dict(os.environ)
        )
    try:
        wait(
            lambda: len(steps_told(job)) >= 2 and len(log.read_text().split("\n")) > 10,
            "training and strokes",
        )
    finally:
        holder = job.holder()
        victims = [] if holder is None else [psutil.Process(holder.pid)]
        victims += [child for victim in victims for child in victim.children()]
        for victim in (process, *victims):
            victim.send_signal(signal.SIGKILL)
        killed = time.time()
        process.wait()
    wait(lambda: job.holder() is None, "stale lock")
    strokes = [line.split() for line in log.read_text().splitlines()]
    sure = max(int(count) for count, when in strokes if float(when) < killed - 1.5)

    window = make_window()  # as before: the same settings
    assert window.settings.recent[0] == str(todo)
    watcher = window.jobs.model.watcher(0)
    assert watcher.folder.path == job.path
    window.open_volume(window.settings.recent[0])
    panel = window.labels
    qtbot.waitUntil(lambda: panel._current == 2, timeout=WAIT)  # the first that is not done
    painted = panel.layers["boundary", "patch3"].data == 2
    assert painted.sum() >= sure > 0
    assert panel.bar.value() == 2

    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "paused"
    before = steps_told(job)
    window.jobs.select(watcher)
    window.commands.trigger(window.commands.find("Tools", "Resume Job"))
    qtbot.waitUntil(lambda: not watcher.running, timeout=WAIT)
    assert watcher.state.status == "done", watcher.state.message
    assert min(steps_told(job)[len(before) :]) > before[0]  # it went on, and did not begin again
    assert find_model("near-new").card.lineage[-1]["patches"] == 2


def steps_told(job):
    if not job.events_path.exists():
        return []
    events = map(json.loads, job.events_path.read_text().splitlines())
    return [event["step"] for event in events if event["type"] == "metric"]


def wait(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.05)
