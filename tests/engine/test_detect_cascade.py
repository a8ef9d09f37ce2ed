"""Cells behind a cascade or within a mask: those of one level that lie where it looked, and nothing else is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from filter_model import Killed, files_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import write_plan
from scipy import ndimage
from test_detect_run import ASKED, detect, opened

from connectoscope import cli
from connectoscope.cascade.plan import read_plan
from connectoscope.detection.points import read_points
from connectoscope.detection.run import search_for
from connectoscope.errors import Cancelled, UserError
from connectoscope.volumes import downsample, open_volume
from connectoscope.volumes.geometry import Box

CORE = (6, 16, 16)
FACTOR = (1, 2, 2)
STEP = np.array([5, 2, 2])  # micrometres


def sparse(shape, seed, cells=5):
    """Noise with a few cells of 10 micrometres."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 5, shape)
    for _ in range(cells):
        spot = np.zeros(shape)
        spot[tuple(int(rng.integers(n)) for n in shape)] = 1
        spot = ndimage.gaussian_filter(spot, (0.8, 1.8, 1.8))
        image += 300 * spot / spot.max()
    return np.rint(image).astype(np.uint16)


def identity(volume):
    return search_for(volume, box=None, level=0, **ASKED).identity()


def plan_file(path, volume, threshold):
    halo = search_for(volume, box=None, level=0, **ASKED).blob.halo
    return write_plan(path, "detect", identity(volume), CORE, halo, FACTOR, threshold)


def cell_map(path):
    import zarr

    return zarr.open_array(path.with_suffix(".cascade.ome.zarr") / "0", mode="r")[...]


def expected_map(array, voxels, threshold, radius):
    """By brute force: gate every coarse cell, then wake what the ball of a found cell reaches, until nothing changes.

    ``voxels``: peaks rounded to the cells they belong to and positions, (n, 3) each.
    """
    cells = tuple(-(-n // c) for n, c in zip(array.shape, CORE, strict=True))
    coarse = downsample(array.astype(np.float32), FACTOR, labels=False)
    short = [c * -(-n // f) - m for c, n, f, m in zip(CORE, cells, FACTOR, coarse.shape, strict=True)]
    coarse = np.pad(coarse, [(0, s) for s in short], mode="symmetric")
    accepted = np.zeros(cells, bool)
    for place in np.ndindex(cells):
        parent = [i // f * c for i, f, c in zip(place, FACTOR, CORE, strict=True)]
        cell = coarse[tuple(slice(p, p + c) for p, c in zip(parent, CORE, strict=True))]
        accepted[place] = cell.max() >= threshold
    awake = accepted.copy()
    peaks, positions = voxels
    while True:
        new = awake.copy()
        for peak, position in zip(peaks, positions, strict=True):
            place = np.array([int(p) // c for p, c in zip(peak, CORE, strict=True)])
            if not awake[tuple(place)]:
                continue
            low = position - radius < place * CORE - 0.5
            high = position + radius > (place + 1) * CORE - 0.5
            for step in np.ndindex(3, 3, 3):
                d = np.array(step) - 1
                there = place + d
                if (there >= 0).all() and (there < cells).all():
                    reached = ((d == 0) | ((d < 0) & low) | ((d > 0) & high)).all()
                    new[tuple(there)] |= reached
        if (new == awake).all():
            return np.where(accepted, 2, np.where(awake, 3, 1)).astype(np.uint8)
        awake = new


def found_by(volume):
    """Peaks and positions of one level, voxels."""
    search = search_for(volume, box=None, level=0, **ASKED)
    detector = search.detector(search.noise(), CORE)
    peaks, positions = [], []
    for block in detector.lattice.blocks(search.box):
        data = detector.compute(block, detector.read(block)).data
        for row in np.frombuffer(data.tobytes()).reshape(-1, 4):
            positions.append(row[:3])
            peaks.append(np.clip(row[:3], *_ends(block, detector.lattice)))
    return np.array(peaks).reshape(-1, 3), np.array(positions).reshape(-1, 3), search


def _ends(block, lattice):
    low = np.array(block.read.start) + lattice.halo + block.keep.start
    return low, low + block.keep.shape - 1


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(8, 20), st.integers(34, 70), st.integers(34, 70)),
    seed=st.integers(0, 999),
    threshold=st.sampled_from([140.0, 180.0, 240.0]),
)
def test_points_are_one_levels_where_the_cascade_looked(tmp_path, shape, seed, threshold):
    array = sparse(shape, seed)
    volume = opened(array)
    out = tmp_path / f"{seed}_{'_'.join(map(str, shape))}_{threshold}.csv"
    plan = plan_file(tmp_path / "p.cascade.json", volume, threshold)
    summary, _ = detect(volume, out, cascade=plan, options={"overwrite": True})
    peaks, positions, search = found_by(volume)
    radius = np.array([search.radius / s for s in search.grid.scale])
    cells = expected_map(array, (peaks, positions), threshold, radius)
    np.testing.assert_array_equal(cell_map(out), cells)
    seen = np.array([cells[tuple(np.int64(p) // CORE)] > 1 for p in peaks], bool)
    expected = positions[seen] * STEP
    got = read_points(out).position
    np.testing.assert_allclose(got, expected[np.lexsort(expected.T[::-1])].reshape(-1, 3), atol=1e-4)
    assert summary["cascade"]["calls"][0] == int((cells > 1).sum())
    assert summary["cascade"]["woken"] == int((cells == 3).sum())
    assert summary["objects"]["cells"] == len(got)


@pytest.mark.parametrize("end", [Cancelled, Killed])
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(tmp_path, end):
    volume = opened(sparse((12, 60, 60), 5))
    plan = plan_file(tmp_path / "p.cascade.json", volume, 180.0)
    (tmp_path / "whole").mkdir()
    _, looks = detect(volume, tmp_path / "whole" / "cells.csv", cascade=plan)
    expected = files_of(tmp_path / "whole" / "cells.cascade.ome.zarr")
    table = (tmp_path / "whole" / "cells.csv").read_bytes()
    for stop_at in range(0, looks, max(looks // 6, 1)):
        out = tmp_path / str(stop_at) / "cells.csv"
        out.parent.mkdir()
        with pytest.raises(end):
            detect(volume, out, cascade=plan, stop_at=stop_at, end=end)
        detect(volume, out, cascade=plan)
        assert out.read_bytes() == table, stop_at
        assert files_of(out.with_suffix(".cascade.ome.zarr")) == expected, stop_at


def test_overwrite_replaces_the_map_and_a_foreign_one_is_refused(tmp_path):
    volume = opened(sparse((12, 60, 60), 5))
    out = tmp_path / "cells.csv"
    everything = plan_file(tmp_path / "a.cascade.json", volume, 0.0)
    detect(volume, out, cascade=everything)
    assert (cell_map(out) == 2).all()
    with pytest.raises(UserError, match="another request"):
        detect(volume, out, cascade="off")
    some = plan_file(tmp_path / "b.cascade.json", volume, 180.0)
    shutil.rmtree(f"{out}.job")
    detect(volume, out, cascade=some, options={"overwrite": True})
    assert (cell_map(out) == 1).any()
    shutil.rmtree(f"{out}.job")
    detect(volume, out, options={"overwrite": True})
    assert not out.with_suffix(".cascade.ome.zarr").exists()
    detect(volume, tmp_path / "both.csv", cascade=some)
    detect(volume, tmp_path / "both.xml")  # nor does the other table of a folder take the map away
    shutil.rmtree(tmp_path / "both.xml.job")
    detect(volume, tmp_path / "both.xml", cascade=some, options={"overwrite": True})
    assert files_of(tmp_path / "both.cascade.ome.zarr")
    assert files_of(tmp_path / "both.xml.cascade.ome.zarr")
    foreign = tmp_path / "other.cascade.ome.zarr"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="was not made by connectoscope"):
        detect(volume, tmp_path / "other.csv", cascade=some)
    assert (foreign / "mine.txt").exists()


def test_only_cells_in_the_mask_are_found(tmp_path):
    array = sparse((12, 60, 60), 5, cells=12)
    volume = opened(array)
    detect(volume, tmp_path / "all.csv")
    inside = np.zeros(array.shape, np.uint8)
    inside[2:9, 10:50, 20:60] = 1
    facts = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (5, 2, 2), strict=True)}
    units = {f"PhysicalSize{a}Unit": "µm" for a in "ZYX"}
    tifffile.imwrite(tmp_path / "mask.ome.tif", inside, metadata={"axes": "ZYX", **facts, **units})
    detect(volume, tmp_path / "in.csv", within=str(tmp_path / "mask.ome.tif"))
    place = tmp_path / "more.cascade.ome.zarr"  # of the map beside more.csv
    place.mkdir()
    shutil.copy(tmp_path / "mask.ome.tif", place)
    with pytest.raises(UserError, match="is the mask itself, holds it or lies in it"):
        detect(volume, tmp_path / "more.csv", within=str(place / "mask.ome.tif"))
    everything, some = (read_points(tmp_path / name).position for name in ("all.csv", "in.csv"))
    peaks, positions, _ = found_by(volume)
    kept = inside[tuple(np.int64(peaks).T)] > 0
    assert 0 < len(some) == kept.sum() < len(everything)
    expected = positions[kept] * STEP
    np.testing.assert_allclose(some, expected[np.lexsort(expected.T[::-1])], atol=1e-4)


def test_a_table_that_was_deleted_is_made_anew_with_a_plan_of_its_own(tmp_path, monkeypatch):
    volume, out = opened(sparse((12, 60, 60), 5)), tmp_path / "cells.csv"
    plan = read_plan(Path(plan_file(tmp_path / "p.cascade.json", volume, 150.0)))
    monkeypatch.setattr("connectoscope.detection.run.plan_detection", lambda *_, **__: plan)
    detect(volume, out, cascade="auto")
    made = out.read_bytes()
    out.unlink()
    shutil.rmtree(f"{out}.job")
    detect(volume, out, cascade="auto")
    assert out.read_bytes() == made


def test_a_plan_for_something_else_is_refused_by_name(tmp_path):
    volume, other = opened(sparse((12, 60, 60), 5)), opened(sparse((12, 60, 60), 6))
    plan = plan_file(tmp_path / "p.cascade.json", other, 180.0)
    with pytest.raises(UserError, match=r"made for another run: input\.chunks was"):
        detect(volume, tmp_path / "out.csv", cascade=plan)
    with pytest.raises(UserError, match=r"parameters\.diameter"):
        detect(other, tmp_path / "out.csv", cascade=plan, diameter=12.0)
    assert not (tmp_path / "out.csv").exists()


@pytest.fixture
def large(tmp_path):
    """A volume with levels on disk, large enough that looking coarsely saves something."""
    array = sparse((48, 240, 240), 3, cells=3)
    facts = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (5, 2, 2), strict=True)}
    units = {f"PhysicalSize{a}Unit": "µm" for a in "ZYX"}
    tifffile.imwrite(tmp_path / "v.ome.tif", array, metadata={"axes": "ZYX", **facts, **units})
    path = tmp_path / "v.ome.zarr"
    assert cli.run(["convert", str(tmp_path / "v.ome.tif"), str(path)]) == 0
    return path


def test_the_command_line_plans_and_runs(large, tmp_path, capsys):
    plan = tmp_path / "p.cascade.json"
    arguments = ["--detector", "cells", "--diameter", "10", "--threshold", "4"]
    assert cli.run(["plan-cascade", str(large), str(plan), *arguments, "--json", "--device", "cpu"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["calls"][0] <= planned["cells"] == 25
    assert planned["pilot"]["positives"] >= 1
    asked = json.loads(plan.read_text())["parameters"]
    assert asked == {
        "source": str(large), "detector": "cells", "diameter": 10.0, "threshold": 4.0, "level": 0
    }  # fmt: skip
    outs = [tmp_path / "one.csv", tmp_path / "two.csv"]
    how = ["--diameter", "10", "--threshold", "4", "--json", "--device", "cpu", "--cascade"]
    for out, cascade in zip(outs, ("off", str(plan)), strict=True):
        assert cli.run(["detect", str(large), str(out), *how, cascade]) == 0
    one, two = (set(map(tuple, read_points(out).position)) for out in outs)
    assert two <= one
    assert len(one) >= 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "either --model NAME or --detector cells"),
        (["--detector", "cells", "--model", "synapse-vnc"], "either --model NAME or --detector cells"),
        (["--detector", "cells", "--exact"], "leave them out"),
        (["--model", "synapse-vnc", "--threshold", "0.5"], "whole number"),
        (["--detector", "cells", "--diameter", "500"], "coarser --level"),
    ],
)
def test_a_plan_for_nothing_ends_with_2(tmp_path, capsys, arguments, text):
    plan = tmp_path / "p.cascade.json"
    assert cli.run(["plan-cascade", "sample:lightsheet", str(plan), *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not plan.exists()


def test_tissue_takes_no_cascade(tmp_path, capsys):
    out = str(tmp_path / "t.ome.zarr")
    assert cli.run(["detect", "sample:lightsheet", out, "--detector", "tissue", "--cascade", "auto"]) == 2
    assert "leave out --cascade" in capsys.readouterr().err


def test_a_plan_on_noise_says_what_can_be_promised(tmp_path):
    from connectoscope.detection.cascaded import plan_detection
    from connectoscope.jobs.context import Context

    volume = open_volume(sparse((12, 120, 120), 1, cells=0), voxel_size="5,2,2um")
    search = search_for(volume, box=None, level=0, diameter=10.0, threshold=30.0)
    context = Context.local(tmp_path / "p.job", threads=1)
    with pytest.raises(UserError, match="95 % confidence at most"):
        plan_detection(search, search.noise(), {}, context, mask=None, asked={}, floor=0.98, seed=0)
    assert Box.of(volume.shape) == search.box
