"""Objects in EM that was made from X-ray carry how uncertain the EM is there."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import zarr
from filter_model import blobs, files_of

from connectoscope.errors import Cancelled, Stopped
from connectoscope.volumes import ImageSpec, create_image, open_volume

SHAPE = (14, 36, 34)


@pytest.fixture
def reconstruction(tmp_path):
    """EM and its two standard deviations, as ``reconstruct`` leaves them."""
    path = tmp_path / "em.ome.zarr"
    em = blobs(SHAPE).astype(np.float32) / 255
    sds = np.random.default_rng(1).uniform(0, 0.2, (2, *SHAPE))
    sds[:, :7] /= 3  # above, all is trusted
    pixels = np.stack([em, *sds]).astype(np.float16)
    marks = {"finished": True, "request": {"task": "reconstruct"}, "calibration": {"trusted_sd": 0.1}}
    spec = ImageSpec(
        SHAPE,
        pixels.dtype,
        (8.0, 8.0, 8.0),
        (40.0, 0.0, 0.0),
        "nanometer",
        (8, 8, 8),
        channels=("em", "aleatoric_sd", "epistemic_sd"),
        attributes={"connectoscope": marks},
    )
    create_image(path, spec)[0].write(pixels).result()
    return path, np.hypot(*pixels[1:].astype(np.float32))


def rows(result):
    with (result / "tables" / "synapses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("box", [None, "2:13,1:36,3:30"])
def test_mean_and_largest_sd_of_each_object(run, reconstruction, tmp_path, box):
    path, total = reconstruction
    result = tmp_path / "result.ome.zarr"
    run(open_volume(path, channel="em"), result, target=["synapses"], threshold=170, box=box)
    inside = tuple(slice(*map(int, part.split(":"))) for part in box.split(",")) if box else ...
    labels, sd = zarr.open_array(result / "labels" / "synapses" / "0", mode="r")[...], total[inside]
    table = rows(result)
    assert len(table) == labels.max() > 1
    for row in table:
        own = sd[labels == int(row["id"])]
        assert float(row["mean_sd"]) == pytest.approx(own.mean(), abs=1e-6)
        assert float(row["max_sd"]) == pytest.approx(own.max(), abs=1e-6)
        assert row["trusted"] == ("yes" if own.mean() <= 0.1 else "no")
    assert {row["trusted"] for row in table} == {"yes", "no"}


def test_interrupted_and_resumed_gives_the_same_table(run, reconstruction, tmp_path):
    path, _ = reconstruction
    whole = tmp_path / "whole.ome.zarr"
    run(open_volume(path, channel="em"), whole, target=["synapses"], threshold=170)
    looks = run.looks
    for stop_at in range(looks - 12, looks, 3):
        part = tmp_path / f"part{stop_at}.ome.zarr"
        with pytest.raises(Cancelled):
            run(open_volume(path, channel="em"), part, target=["synapses"], threshold=170, stop_at=stop_at)
        run(open_volume(path, channel="em"), part, target=["synapses"], threshold=170)
        assert files_of(part / "tables")["synapses.csv"] == files_of(whole / "tables")["synapses.csv"]


def test_nobody_trusts_what_cannot_be_read(run, reconstruction, tmp_path):
    path, _ = reconstruction
    chunk = path / "0" / "c" / "1" / "0" / "2" / "1"  # of the aleatoric sd
    chunk.write_bytes(chunk.read_bytes()[:-9])
    options = {"target": ["synapses"], "threshold": 170}
    with pytest.raises(Stopped, match="cannot read voxels 0:8,16:24,8:16"):
        run(open_volume(path, channel="em"), tmp_path / "stopped.ome.zarr", **options)
    result = tmp_path / "result.ome.zarr"
    volume = open_volume(path, channel="em").skipping_corrupt()
    summary = run(volume, result, skip_corrupt=True, **options)
    assert summary["skipped_chunks"] == ["0:8,16:24,8:16 of aleatoric_sd"]
    assert any("1 chunk of the source is corrupt" in text for text in summary["warnings"])
    labels = zarr.open_array(result / "labels" / "synapses" / "0", mode="r")[...]
    touched = set(np.unique(labels[0:8, 16:24, 8:16])) - {0}
    assert touched
    for row in rows(result):
        assert (row["max_sd"] == "inf") == (row["mean_sd"] == "inf") == (int(row["id"]) in touched)
        if int(row["id"]) in touched:
            assert row["trusted"] == "no"


def test_other_volumes_have_no_such_columns(run, tmp_path):
    result = tmp_path / "result.ome.zarr"
    run(open_volume(blobs(SHAPE), voxel_size="8nm"), result, target=["synapses"], threshold=170)
    assert "mean_sd" not in rows(result)[0]
