"""*Check* tells of the form as it is, and leaves no folder behind; no process is started here."""

from __future__ import annotations

import threading

import pytest
from qtpy.QtCore import QObject

from connectoscope.errors import UserError
from connectoscope.tasks.base import load_task
from napari_connectoscope import jobs
from napari_connectoscope.check import CheckController
from napari_connectoscope.submission import Submission

WAIT = 60_000  # ms; a limit, not a pause
TRYING = "Trying one block …"


@pytest.fixture
def checking(qapp):
    parent = QObject()
    checking = CheckController(parent)
    checking.heard = []
    checking.told.connect(checking.heard.append)
    checking.failed.connect(checking.heard.append)
    yield checking
    checking.stop()


@pytest.fixture
def submission(tmp_path, monkeypatch):
    """Its folders are in ``tmp_path``."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("connectoscope.jobs.run.start_detached", lambda folder: None)
    values = {"source": "sample:vnc", "destination": str(tmp_path / "out.ome.zarr")}
    return Submission(load_task("segment"), values)


@pytest.fixture
def folders(tmp_path):
    return lambda: list(tmp_path.glob("connectoscope-*"))


@pytest.mark.parametrize("refused", [False, True])
def test_of_the_form_as_it_was_nothing_is_told(checking, submission, folders, monkeypatch, qtbot, refused):
    changed = threading.Event()

    def start(folder):
        changed.wait(10)
        if refused:
            folder.remove()
            raise UserError("there is no such box")

    monkeypatch.setattr(jobs, "start", start)
    checking.run(submission)
    qtbot.waitUntil(lambda: bool(folders()), timeout=WAIT)
    checking.stop()
    changed.set()
    qtbot.waitUntil(lambda: not folders(), timeout=WAIT)
    qtbot.wait(100)  # the thread's answer
    assert checking.heard == [TRYING]
    assert checking._watcher is None


def test_the_folder_of_a_stopped_check_goes_when_its_process_has_ended(checking, submission, folders, qtbot):
    checking.run(submission)
    qtbot.waitUntil(lambda: checking._watcher is not None, timeout=WAIT)
    folder = checking._watcher.folder
    with folder.lock():
        checking.stop()
        qtbot.waitUntil(folder.cancel_path.exists, timeout=WAIT)
        assert folders() == [folder.path]
    qtbot.waitUntil(lambda: not folders(), timeout=WAIT)
    assert checking.heard == [TRYING]


def test_what_is_to_be_replaced_is_asked_about_when_it_runs(submission):
    """A check has no question to ask, and writes nothing."""
    folder = submission.check()
    assert folder.request.overwrite
    folder.remove()


def test_a_newer_check_takes_the_place_of_an_older_one(checking, submission, folders, qtbot):
    checking.run(submission)
    checking.run(submission)
    qtbot.waitUntil(lambda: checking._watcher is not None and len(folders()) == 1, timeout=WAIT)
    checking._watcher.folder.events().write("error", message="the disk is full", exit_code=2)
    qtbot.waitUntil(lambda: not folders(), timeout=WAIT)
    assert checking.heard == [TRYING, TRYING, "the disk is full"]
