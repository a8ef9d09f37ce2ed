"""A result that is another run's: replaced, or kept beside the new one, as the user says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from qtpy.QtWidgets import QWidget

from connectoscope.errors import Taken, UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.tasks.base import load_task
from connectoscope.volumes import ImageSpec, create_image
from napari_connectoscope import jobs, taken
from napari_connectoscope.forms import TaskForm
from napari_connectoscope.sources import snapshot
from napari_connectoscope.submission import SPILLED, Submission


@pytest.fixture
def submission(tmp_path, monkeypatch):
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    values = {"source": "sample:vnc", "destination": str(tmp_path / "out.ome.zarr")}
    first = jobs.submit("segment", values)
    events = first.events()
    events.write("started")
    events.write("progress", done=1, total=1, phase="probabilities", fraction=1.0)
    events.write("finished", summary={}, exit_code=0)
    (tmp_path / "out.ome.zarr").mkdir()
    return Submission(load_task("segment"), {**values, "threshold": 90})


@pytest.mark.parametrize("answer", [taken.REPLACE, taken.BOTH, taken.CANCEL])
def test_what_the_user_says_is_done(submission, tmp_path, monkeypatch, answer):
    asked = []
    monkeypatch.setattr(taken, "ask", lambda text, parent: asked.append(text) or answer)
    (tmp_path / "out-2.ome.zarr").mkdir()
    found = taken.attempt(submission)
    assert isinstance(found, Taken)
    again = taken.decided(submission, found, None)
    assert "Threshold was not given, now 90" in asked[0]
    assert "out-3.ome.zarr" in asked[0]
    assert asked[0].startswith("out.ome.zarr was made by")
    assert "--overwrite" not in asked[0]
    if answer == taken.CANCEL:
        assert again is None
        return
    made = taken.attempt(again)
    assert isinstance(made, JobFolder)
    assert made.request.parameters["threshold"] == 90
    assert made.request.overwrite == (answer == taken.REPLACE)
    assert made.path.name == ("out.ome.zarr.job" if answer == taken.REPLACE else "out-3.ome.zarr.job")


def test_the_source_itself_is_no_destination(submission, tmp_path):
    source = tmp_path / "out.ome.zarr"  # made by a run, which could be replaced
    values = {"source": str(source), "destination": str(source / "x.ome.zarr")}
    for place in (source, source / "x.ome.zarr"):
        again = Submission(load_task("convert"), {**values, "destination": str(place)})
        with pytest.raises(UserError, match="is the source itself, holds it or lies in it") as refusal:
            taken.attempt(again)
        assert not isinstance(refusal.value, Taken)
    assert list(source.iterdir()) == []


def test_a_model_is_kept_beside_the_other_models(tmp_path, monkeypatch):
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (models, elsewhere, models / "mine-2"):
        folder.mkdir()
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(models))
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    asked = []
    monkeypatch.setattr(taken, "ask", lambda text, parent: asked.append(text) or taken.BOTH)
    values = {
        "model": "synapse-vnc", "destination": "mine", "on": "sample:vnc", "patches": "a.patches.json", "labels": "a",
        "target": ("synapses",),
    }  # fmt: skip
    events = Submission(load_task("adapt train"), values).run().events()
    events.write("started")
    events.write("progress", done=1, total=9, phase="steps", fraction=0.1)
    events.write("cancelled", message="cancelled", exit_code=3)
    other = Submission(load_task("adapt train"), {**values, "steps": 77})
    found = taken.attempt(other)
    assert isinstance(found, Taken)
    again = taken.decided(other, found, None)
    assert asked[0].startswith("mine holds an unfinished run")
    assert again.values["destination"] == "mine-3"
    assert taken.attempt(again).path == models / "mine-3.job"
    assert list(elsewhere.iterdir()) == []


def test_a_result_kept_beside_the_other_is_not_named_by_hand(submission, qtbot, monkeypatch):
    monkeypatch.setattr(taken, "ask", lambda text, parent: taken.BOTH)
    form = TaskForm(submission.task, preset={"source": "sample:vnc"})
    panel, made = QWidget(), []
    for widget in (form, panel):
        qtbot.addWidget(widget)
    taken.start(panel, form, submission, started=made.append, cancelled=panel.close, refused=made.append)
    qtbot.waitUntil(lambda: bool(made), timeout=10_000)
    assert made[0].path.name == "out-2.ome.zarr.job"
    assert form.values()["destination"] == str(made[0].request.destination)
    form.set_values({"source": "sample:other"})
    assert "other" in form.values()["destination"]


@pytest.mark.parametrize("task", ["segment", "detect"])
def test_a_result_without_its_job_folder_tells_of_its_request(task, tmp_path, monkeypatch):
    """As plain napari leaves it."""
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    path = tmp_path / {"segment": "out.ome.zarr", "detect": "out.csv"}[task]
    values = {"source": "sample:vnc", "destination": str(path), "box": "0:2,0:8,0:8"}
    folder = jobs.submit(task, values)
    made = folder.request.provenance()
    if task == "segment":
        spec = ImageSpec(
            (2, 8, 8), np.dtype("u1"), (1.0,) * 3, (0.0,) * 3, "nanometer", (2, 8, 8),
            attributes={"connectoscope": {"finished": True, "request": made}},
        )  # fmt: skip
        create_image(path, spec)
    else:
        path.touch()
        path.with_suffix(".json").write_text(json.dumps({"file": path.name, "request": made}))
    folder.remove()
    asked = []
    monkeypatch.setattr(taken, "ask", lambda text, parent: asked.append(text) or taken.REPLACE)
    assert isinstance(taken.attempt(Submission(load_task(task), values)), JobFolder)  # the same again
    folder.remove()
    other = Submission(load_task(task), {**values, "box": "0:2,0:4,0:4"})
    found = taken.attempt(other)
    assert isinstance(found, Taken)
    assert taken.attempt(taken.decided(other, found, None)).request.overwrite
    assert asked[0].startswith(
        f"{path.name} was made by another request: Box was 0:2,0:8,0:8, now 0:2,0:4,0:4.\n"
    )


def test_a_result_of_a_copy_that_has_gone_may_be_of_other_pixels(viewer, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    layer = viewer.add_image(pixels, name="mine", scale=(40, 4, 4), units=("nm",) * 3)
    path = tmp_path / "out.ome.zarr"
    values = {"source": "layer:mine", "destination": str(path)}
    submission = Submission(load_task("segment"), values, snapshot(viewer, layer))
    folder = submission.run()
    marks = {"connectoscope": {"finished": True, "request": folder.request.provenance()}}
    spec = ImageSpec(
        (2, 8, 8), np.dtype("u1"), (1.0,) * 3, (0.0,) * 3, "nanometer", (2, 8, 8), attributes=marks
    )
    create_image(path, spec)
    assert (folder.path / SPILLED).exists()
    assert isinstance(taken.attempt(submission), JobFolder)  # of the same copy
    folder.remove()
    assert "earlier copy of the layer" in str(taken.attempt(submission))
    assert not folder.path.exists()
