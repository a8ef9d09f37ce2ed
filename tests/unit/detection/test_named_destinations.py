"""What is found is named by its kind: before there is a job, so that nothing is left of one."""

from __future__ import annotations

import pytest

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest


@pytest.mark.parametrize(
    ("detector", "name", "said"),
    [
        ("cells", "x.txt", "x.txt: cells are points; name the file x.csv, or x.xml"),
        ("cells", "", "is a folder: name a file in it"),
        ("tissue", "x.csv", "x.csv: detect --detector tissue makes OME-Zarr; name it x.ome.zarr"),
    ],
)
def test_another_ending_is_refused_before_there_is_a_job(tmp_path, detector, name, said):
    values = {"source": "a.tif", "destination": str(tmp_path / name), "detector": detector}
    with pytest.raises(UserError, match=said):
        JobFolder.create(JobRequest.make("detect", values))
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_open_is_told_in_words(tmp_path):
    values = {"source": "a.tif", "destination": str(tmp_path / "x.csv")}
    one, two = (JobRequest.make("detect", {**values, **more}) for more in ({}, {"channel": "9"}))
    assert one.differences(two) == ["channel was not given, now 9"]
    assert two.differences(one) == ["channel was 9, now not given"]
