"""A run whose result would lie where another one's is: replace that, or keep both?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

from qtpy.compat import isalive
from qtpy.QtWidgets import QMessageBox, QWidget

from connectoscope.errors import Taken
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from napari_connectoscope.forms import TaskForm
from napari_connectoscope.submission import Submission
from napari_connectoscope.threads import background
from napari_connectoscope.wording import label_of

REPLACE, BOTH, CANCEL = "Replace it", "Keep both", "Cancel"


Progress = Callable[[int, int], None]


def start(
    panel: QWidget,
    form: TaskForm,
    submission: Submission,
    *,
    started: Callable[[JobFolder], None],
    cancelled: Callable[[], None],
    refused: Callable[[str], None],
    progress: Progress = lambda done, total: None,
) -> None:
    """Start a job in a thread; where its result would lie over another run's, ask, and do as the user says.

    Args:
        form: Shows another destination, if it comes to that.
        started, cancelled, refused: One of them is called, on the interface thread.
        progress: As :meth:`Submission.run` takes it.
    """

    def answered(made: JobFolder | Taken) -> None:
        if not isinstance(made, Taken):
            started(made)
            return
        again = decided(submission, made, panel)
        if again is None:
            cancelled()
            return
        name = submission.task.destination or ""
        if isalive(form):
            form.fields[name].set_value(again.values[name])  # another source has another one
        start(panel, form, again, started=started, cancelled=cancelled, refused=refused, progress=progress)

    background(panel, lambda: attempt(submission, progress), answered, refused)


def attempt(submission: Submission, progress: Progress = lambda done, total: None) -> JobFolder | Taken:
    """:meth:`Submission.run`, or what :func:`decided` must ask about."""
    try:
        return submission.run(progress)
    except Taken as taken:
        return taken


def decided(submission: Submission, taken: Taken, parent: QWidget) -> Submission | None:
    """What is to be started instead, as the user says; None: nothing."""
    name = submission.task.destination or ""
    asked = JobRequest.make(submission.task, dict(submission.values))  # it knows where models are
    place = asked.destination or Path()  # what has none is never taken
    free = free_name(place)
    reason = taken.reason.replace(f"{place}.job", place.name)  # the user knows of the result, not of its job
    reason = reason.replace(str(place), place.name)
    for key, info in submission.task.parameters.model_fields.items():  # as the form calls them
        reason = re.sub(rf"(?<=[:;] ){key} was ", f"{label_of(key, info)} was ", reason)
    answer = ask(f"{reason}.\n\n'{BOTH}' makes {free.name}.", parent)
    if answer == REPLACE:
        return replace(submission, options={**submission.options, "overwrite": True})
    if answer != BOTH:
        return None
    kept = Path(str(submission.values[name])).with_name(free.name)  # a bare name stays one
    return replace(submission, values={**submission.values, name: str(kept)})


def ask(text: str, parent: QWidget) -> str:
    """One of the three answers."""
    box = QMessageBox(QMessageBox.Icon.Question, "Connectoscope", text, parent=parent)
    box.addButton(REPLACE, QMessageBox.ButtonRole.DestructiveRole)
    keep = box.addButton(BOTH, QMessageBox.ButtonRole.AcceptRole)
    box.addButton(CANCEL, QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(keep)
    box.exec()
    clicked = box.clickedButton()
    box.deleteLater()
    return CANCEL if clicked is None else clicked.text().replace("&", "")


def free_name(path: Path) -> Path:
    """``NAME-2.ome.zarr``, or the first number under which neither a result nor a job is."""
    stem, dot, ending = path.name.partition(".")
    names = (path.with_name(f"{stem}-{i}{dot}{ending}") for i in count(2))
    return next(p for p in names if not (os.path.lexists(p) or os.path.lexists(f"{p}.job")))
