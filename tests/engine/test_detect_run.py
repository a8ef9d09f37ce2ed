"""Detection over blocks: equal to the whole volume at once, resumed to the same bytes, refusals in one line."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from filter_model import Interrupting, Killed, files_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from connectoscope import cli
from connectoscope.detection import cells, tissue
from connectoscope.detection.points import read_points
from connectoscope.detection.run import detect_cells, search_for
from connectoscope.detection.tissue import detect_tissue
from connectoscope.errors import Cancelled, UserError
from connectoscope.tasks.detect import Detect
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import parse_box

quick = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
ASKED = {"diameter": 10.0, "threshold": 4.0}


def cloudy(shape, seed, dtype=np.uint16):
    """Noise with bright blobs of all sizes, also at the borders, and plateaus by rounding."""
    rng = np.random.default_rng(seed)
    spots = np.where(rng.random(shape) < 2e-3, 4e4, 0.0)
    smooth = ndimage.gaussian_filter(spots, (0.8, 1.8, 1.8), mode="reflect")
    return np.rint(smooth + 100 + rng.normal(0, 5, shape)).clip(0, 60000).astype(dtype)


def opened(array):
    return open_volume(array, voxel_size="5,2,2um")


def detect(volume, destination, *, stop_at=None, end=Cancelled, how=detect_cells, options=None, **parameters):
    context = Interrupting.local(f"{destination}.job", threads=1, **(options or {}))
    context.stop_at, context.end = stop_at, end
    asked = (ASKED if how is detect_cells else {"detector": "tissue"}) | parameters
    summary = how(volume, Detect(source="memory", destination=str(destination), **asked), context)
    return summary, context.looks


def brute_force(volume, box, threshold=4.0, diameter=10.0):
    """(z, y, x, score) of all cells whose peak lies in the box, from the whole volume at once, voxel by voxel."""
    search = search_for(volume, box=None, level=0, diameter=diameter, threshold=threshold)
    array = search.grid.read(box.__class__.of(volume.shape))
    sigma, run, window = search.blob.sigma, search.blob.run, search.blob.window
    pad = [40, 40, 40]
    wide = np.pad(array, [(p, p) for p in pad], mode="symmetric")

    def gauss(a, axis, s):
        return ndimage.gaussian_filter1d(a, s, axis, mode="nearest", radius=int(3 * s + 0.5))

    flat = gauss(wide, 0, sigma[0])
    values = gauss(gauss(flat, 1, sigma[1]), 2, sigma[2])
    values -= gauss(gauss(flat, 1, 1.6 * sigma[1]), 2, 1.6 * sigma[2])
    depth = volume.shape[0]
    noise = np.pad(np.array(search.noise(), np.float32), pad[0], mode="symmetric")
    values /= noise[:, None, None]
    inside = tuple(slice(p, p + n) for p, n in zip(pad, volume.shape, strict=True))
    mirrored, values = values, np.full_like(values, -np.inf)
    values[inside] = mirrored[inside]
    greatest = ndimage.maximum_filter(values, [2 * w + 1 for w in window])
    rows = []
    for z, y, x in np.argwhere((values == greatest) & (values >= threshold)).tolist():
        place = tuple(i - p for i, p in zip((z, y, x), pad, strict=True))
        if not all(a <= i < b for i, a, b in zip(place, box.start, box.stop, strict=True)):
            continue
        around = values[tuple(slice(i - w, i + w + 1) for i, w in zip((z, y, x), window, strict=True))]
        if tuple(np.argwhere(around == values[z, y, x])[0]) != window:
            continue
        score, dropped, ends = values[z, y, x], False, []
        for step in (-1, 1):
            k = 0
            while k < run and 0 <= place[0] + step * (k + 1) < depth:
                value = values[z + step * (k + 1), y, x]
                if value < threshold:
                    break
                k += 1
                dropped |= bool(value > score or (value == score and step < 0))
            ends.append(k)
        if dropped:
            continue
        sub = []
        for before, after in (
            (mirrored[z, y - 1, x], mirrored[z, y + 1, x]),
            (mirrored[z, y, x - 1], mirrored[z, y, x + 1]),
        ):
            a, b, c = float(before), float(score), float(after)
            sub.append((a - c) / (2 * (a - 2 * b + c)) if a - 2 * b + c < 0 else 0.0)
        rows.append((place[0] + (ends[1] - ends[0]) / 2, place[1] + sub[0], place[2] + sub[1], float(score)))
    return np.array(sorted(rows)).reshape(-1, 4)


@quick
@given(data=st.data(), seed=st.integers(0, 99))
def test_blocks_of_any_shape_find_what_the_whole_volume_holds(tmp_path, monkeypatch, data, seed):
    shape = data.draw(st.tuples(st.integers(3, 20), st.integers(3, 40), st.integers(3, 40)))
    core = data.draw(st.tuples(*[st.sampled_from([4, 9, 16, 50])] * 3))
    ends = [
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape
    ]
    text = ",".join(f"{a}:{b}" for a, b in ends)
    monkeypatch.setattr(cells, "CORE", core)
    volume, out = opened(cloudy(shape, seed)), tmp_path / "cells.csv"
    for left in (out, tmp_path / "cells.json"):
        left.unlink(missing_ok=True)
    shutil.rmtree(f"{out}.job", ignore_errors=True)
    summary, _ = detect(volume, out, box=text)
    expected = brute_force(volume, parse_box(text))
    points = read_points(out)
    assert summary["objects"] == {"cells": len(expected)}
    np.testing.assert_allclose(points.position, expected[:, :3] * (5, 2, 2), atol=6e-5)
    np.testing.assert_allclose(points.score, expected[:, 3], atol=6e-3)


def test_the_table_and_what_is_beside_it(tmp_path):
    out = tmp_path / "cells.csv"
    summary, _ = detect(opened(cloudy((12, 60, 60), 1)), out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "z", "y", "x", "unit", "radius", "score"]
    assert [int(r["id"]) for r in rows] == list(range(1, summary["objects"]["cells"] + 1))
    assert len(rows) > 10
    places = [tuple(float(r[a]) for a in "zyx") for r in rows]
    assert places == sorted(places)
    assert {(r["unit"], r["radius"]) for r in rows} == {("micrometer", "5")}
    assert all(float(r["score"]) >= 4 for r in rows)
    about = json.loads((tmp_path / "cells.json").read_text())
    assert about["finished"] is True
    assert about["signature"]["parameters"]["diameter"] == 10
    assert about["request"]["software"]["connectoscope"]
    assert about["summary"]["objects"] == summary["objects"]
    detect(opened(cloudy((12, 60, 60), 1)), tmp_path / "cells.xml")  # in the same folder
    assert {p.name for p in tmp_path.glob("cells.*")} >= {
        "cells.csv",
        "cells.json",
        "cells.xml",
        "cells.xml.json",
    }


@pytest.mark.parametrize("end", [Cancelled, Killed])
@pytest.mark.parametrize("name", ["cells.csv", "cells.xml"])
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(tmp_path, monkeypatch, end, name):
    monkeypatch.setattr(cells, "CORE", (6, 20, 20))
    volume = opened(cloudy((10, 50, 30), 5))
    (tmp_path / "a").mkdir()
    whole = tmp_path / "a" / name
    _, looks = detect(volume, whole)
    for k in range(looks):
        other = tmp_path / f"b{k}" / name
        other.parent.mkdir()
        with pytest.raises(end):
            detect(volume, other, stop_at=k, end=end)
        assert not other.exists()
        beside = "cells.json" if name == "cells.csv" else "cells.xml.json"
        assert json.loads(other.with_name(beside).read_text())["finished"] is False
        detect(volume, other)
        for file in (name, beside):
            assert other.with_name(file).read_bytes() == whole.with_name(file).read_bytes()


def test_finished_says_so_another_request_is_refused_and_overwrite_starts_anew(tmp_path):
    volume, out = opened(cloudy((8, 40, 40), 2)), tmp_path / "cells.csv"
    first, _ = detect(volume, out)
    before = out.read_bytes()
    again, looks = detect(volume, out)
    assert again["already_complete"] is True
    assert again["objects"] == first["objects"]
    assert looks == 0
    with pytest.raises(UserError, match=r"threshold was 4\.0 and is now 90\.0"):
        detect(volume, out, threshold=90.0)
    assert out.read_bytes() == before
    shutil.rmtree(f"{out}.job")  # as a finished job does
    fewer, _ = detect(volume, out, threshold=90.0, options={"overwrite": True})
    assert fewer["objects"]["cells"] < first["objects"]["cells"]
    with pytest.raises(UserError, match=r"cells\.json belongs to cells.csv"):
        detect(volume, tmp_path / "cells.CSV")


def test_nothing_foreign_is_replaced(tmp_path):
    volume = opened(cloudy((8, 40, 40), 2))
    for name in ("cells.csv", "cells.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match="choose another destination"):
            detect(volume, tmp_path / "cells.csv", options={"overwrite": True})
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_what_is_not_finite_is_taken_as_nought_and_constant_blocks_as_background(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "CORE", (8, 40, 40))
    array = cloudy((8, 40, 160), 3).astype(np.float32)
    array[:, :, 100:] = 7
    array[2, 5, 5:8] = np.nan
    summary, _ = detect(opened(array), tmp_path / "cells.csv")
    assert "3 voxels were not numbers or infinite and were taken as 0" in summary["warnings"]
    assert any("blocks were constant" in text for text in summary["warnings"])
    assert read_points(tmp_path / "cells.csv").position[:, 2].max() < 2 * 105


def test_facts_say_what_a_cascade_needs(tmp_path):
    volume = opened(cloudy((12, 60, 60), 1))
    search = search_for(volume, box=None, level=0, **ASKED)
    noise = search.noise()
    large, small = search.detector(noise), search.detector(noise, (6, 16, 16))
    counts = []
    for detector in (large, small):
        facts = [
            dict(detector.compute(b, detector.read(b)).facts) for b in detector.lattice.blocks(search.box)
        ]
        assert all(f["positive"] == (f["points"] > 0) and 13 not in f["open"] for f in facts)
        assert all(f["positive"] or not f["open"] for f in facts)
        counts.append(sum(f["points"] for f in facts))
    assert counts[0] == counts[1] > 10
    assert any(f["open"] for f in facts)


@pytest.mark.parametrize(
    ("shape", "voxel", "parameters", "text"),
    [
        ((1, 40, 40), "5,2,2um", {}, "at least 3 voxels a side"),
        ((8, 40, 40), None, {}, "--voxel-size"),
        ((8, 40, 40), "5,2,2um", {"diameter": 9.0}, "--diameter of at least 10"),
        ((8, 40, 40), "5,2,2um", {"level": 1}, "no level 1"),
        ((8, 40, 40), "5,2,2um", {"box": "0:9,0:9,0:9"}, "outside"),
    ],
)
def test_unusable_input_is_one_line(tmp_path, shape, voxel, parameters, text):
    volume = open_volume(cloudy(shape, 0), voxel_size=voxel)
    with pytest.raises(UserError, match=text) as error:
        detect(volume, tmp_path / "cells.csv", **parameters)
    assert "\n" not in str(error.value)


def test_a_constant_volume_is_refused(tmp_path):
    with pytest.raises(UserError, match="constant"):
        detect(opened(np.full((8, 40, 40), 7, np.uint8)), tmp_path / "cells.csv")


@pytest.mark.parametrize(
    "arguments", [("cells.ome.zarr", "cells"), ("cells.tif", "cells"), ("tissue.csv", "tissue")], ids=str
)
def test_a_name_that_does_not_fit_the_detector_ends_with_2(tmp_path, capsys, arguments):
    name, detector = arguments
    assert cli.run(["detect", "sample:lightsheet", str(tmp_path / name), "--detector", detector]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_bundled_sample_has_cells_for_the_command_line(tmp_path, capsys):
    out = tmp_path / "cells.csv"
    assert (
        cli.run(["detect", "sample:lightsheet", str(out), "--detector", "cells", "--device", "cpu", "--json"])
        == 0
    )
    summary = json.loads(capsys.readouterr().out)
    points = read_points(out)
    assert summary["objects"]["cells"] == len(points) > 3
    assert points.unit == "micrometer"
    low, high = (
        (50, 480, 128),
        (50 + 9 * 5, 480 + 255 * 2, 128 + 255 * 2),
    )  # where the sample lies in its world
    assert ((points.position >= low) & (points.position <= high)).all()


def lit(shape=(10, 90, 80)):
    rng = np.random.default_rng(0)
    array = rng.poisson(20, shape)
    array[:, 30:] += rng.poisson(400, (shape[0], shape[1] - 30, shape[2]))
    return array.astype(np.uint16)


def stored(path, level=0):
    import zarr

    return zarr.open_array(path / str(level), mode="r")[...]


@pytest.mark.parametrize(
    ("box", "scale"), [(None, 1), ("1:9,3:71,10:60", 1), ("1:9,3:71,10:60", np.float32(1e-5))]
)
def test_the_mask_of_tissue_does_not_depend_on_blocks_and_resumes_to_the_same_bytes(
    tmp_path, monkeypatch, box, scale
):
    volume = open_volume(lit() * scale, voxel_size="5,4,4um")
    (tmp_path / "a").mkdir()
    whole = tmp_path / "a" / "t.ome.zarr"
    summary, _ = detect(volume, whole, how=detect_tissue, box=box)
    assert summary["told_by"] == "brightness"
    part = parse_box(box or "0:10,0:90,0:80")
    mask = stored(whole)
    assert mask.shape == part.shape
    assert mask[:, 32 - part.start[1] :].all()
    assert not mask[:, : 28 - part.start[1]].any()
    assert open_volume(whole).levels[0].translation == tuple(
        s * i for s, i in zip((5, 4, 4), part.start, strict=True)
    )
    monkeypatch.setattr(tissue, "CORE", (4, 32, 32))
    parted = tmp_path / "b" / "t.ome.zarr"
    parted.parent.mkdir()
    _, looks = detect(volume, parted, how=detect_tissue, box=box)
    np.testing.assert_array_equal(stored(parted), mask)
    for k in (0, looks // 2, looks - 1):
        other = tmp_path / f"c{k}" / "t.ome.zarr"
        other.parent.mkdir()
        with pytest.raises(Cancelled):
            detect(volume, other, how=detect_tissue, box=box, stop_at=k)
        detect(volume, other, how=detect_tissue, box=box)
        assert files_of(other) == files_of(parted)


def test_tissue_everywhere_is_marked_everywhere_with_a_warning(tmp_path):
    array = np.random.default_rng(0).poisson(100, (8, 60, 60)).astype(np.uint8)
    out = tmp_path / "t.ome.zarr"
    summary, _ = detect(open_volume(array, voxel_size="4nm"), out, how=detect_tissue)
    assert summary["share"] == 1
    assert any("no border" in text for text in summary["warnings"])
    again, _ = detect(open_volume(array, voxel_size="4nm"), out, how=detect_tissue)
    assert again["already_complete"] is True
