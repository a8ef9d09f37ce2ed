"""What is made is named by its kind: before there is a job, so that nothing is left of one."""

from __future__ import annotations

import re

import pytest

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest


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


def test_what_was_left_open_is_told_in_words(tmp_path):
    values = {"source": "a.tif", "destination": str(tmp_path / "x.csv")}
    one, two = (JobRequest.make("detect", {**values, **more}) for more in ({}, {"channel": "9"}))
    assert one.differences(two) == ["channel was not given, now 9"]
    assert two.differences(one) == ["channel was 9, now not given"]
