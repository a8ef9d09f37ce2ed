"""A result that is another run's: replaced, or kept beside the new one, as the user says."""

from __future__ import annotations

import pytest

from connectoscope.errors import Taken
from connectoscope.jobs.folder import JobFolder
from connectoscope.tasks.base import load_task
from napari_connectoscope import jobs, taken
from napari_connectoscope.submission import Submission


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
    assert "threshold was None, now 90" in asked[0]
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
