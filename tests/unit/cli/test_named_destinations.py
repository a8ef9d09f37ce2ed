"""What is made is named by its kind: before there is a job, so that nothing is left of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.tasks.base import load_task


@pytest.mark.parametrize(
    ("task", "name", "more", "said"),
    [
        ("detect", "x.txt", {"detector": "cells"}, "x.txt: cells are points; name the file x.csv, or x.xml"),
        ("detect", "", {"detector": "cells"}, "is a folder: name a file in it"),
        ("detect", "x.csv", {"detector": "tissue"}, "x.csv: the result is an OME-Zarr; name it x.ome.zarr"),
        (
            "detect",
            "x.zarr",
            {"detector": "tissue", "cascade": "auto"},
            "leave out --cascade and --within",
        ),
        ("segment", "x.tif", {}, "x.tif: the result is an OME-Zarr; name it x.ome.zarr"),
        ("reconstruct", "x", {}, "x: the result is an OME-Zarr"),
        ("simulate-xray", "x.h5", {}, "x.h5: the result is an OME-Zarr"),
        ("convert", "x.png", {}, "x.png: name it x.ome.zarr, or for another format"),
        ("adapt suggest", "x.csv", {"model": "m"}, "x.csv: patches are written as JSON; name it x.json"),
        ("plan-cascade", "x.json", {"model": "m"}, "x.json: a plan is named NAME.cascade.json"),
        ("plan-cascade", "x.cascade.json", {}, "either --model NAME or --detector cells"),
    ],
)
def test_another_ending_is_refused_before_there_is_a_job(tmp_path, task, name, more, said):
    values = {"source": "a.tif", "destination": str(tmp_path / name), **more}
    with pytest.raises(UserError, match=re.escape(said)):
        JobFolder.create(JobRequest.make(task, values))
    assert list(tmp_path.iterdir()) == []


def _asked(task: str, folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """``values``, and what else the task must be told."""
    fields = load_task(task).parameters.model_fields
    needed = {name: str(folder / name) for name, info in fields.items() if info.is_required()}
    return {**needed, "destination": str(folder / "x") + load_task(task).ending({}), **values}


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        (
            "prune",
            {"destination": "my model"},
            "destination: 'my model' is not a valid model name: use letters",
        ),
        ("prune", {"destination": "membrane-vnc"}, "a model 'membrane-vnc' comes with connectoscope"),
        ("prune", {"destination": "x", "report": "X.pdf"}, "--report: X.pdf: the report is a page; name it"),
        ("train", {"destination": "a/b c"}, "'b c' is not a valid model name"),
        ("train-gate", {"destination": ""}, "'' is not a valid model name"),
        ("adapt sign", {"destination": "-x"}, "'-x' is not a valid model name"),
        ("adapt train", {"destination": "(left)"}, "'(left)' is not a valid model name"),
        ("adapt train", {"destination": "x", "labels": "y"}, "--patches and --labels go together"),
        ("adapt train", {"destination": "x", "target": ["a", "b"]}, "give --target once"),
        ("adapt suggest", {"patch": "12x12"}, "--patch: '12x12' is not z,y,x in whole voxels"),
        ("adapt suggest", {"patch": "0,8,8"}, "--patch: '0,8,8' is not z,y,x in whole voxels"),
        ("simulate-xray", {"voxel_size": "30"}, "--voxel-size: '30' is not a length with a unit"),
        ("simulate-xray", {"voxel_size": "60,30,30nm"}, "is more than one length"),
        ("simulate-xray", {"resolution": "blah"}, "--resolution: 'blah' is not a length with a unit"),
        ("reconstruct", {"resolution": "90"}, "--resolution: '90' is not a length with a unit"),
        ("convert", {"destination": "X.n5", "version": "0.4"}, "--version is for OME-Zarr, and X.n5 is N5"),
    ],
)
def test_what_needs_no_file_is_refused_before_there_is_a_job(tmp_path, monkeypatch, task, values, said):
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        JobFolder.create(JobRequest.make(task, _asked(task, tmp_path, values)))
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_open_is_told_in_words(tmp_path):
    values = {"source": "a.tif", "destination": str(tmp_path / "x.csv")}
    one, two = (JobRequest.make("detect", {**values, **more}) for more in ({}, {"channel": "9"}))
    assert one.differences(two) == ["channel was not given, now 9"]
    assert two.differences(one) == ["channel was 9, now not given"]
