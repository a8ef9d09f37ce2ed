"""A cascade in front of the segmentation: what is accepted is what one level gives, and nothing else is read."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from filter_model import HALO, FilterBundle, Killed, files_of, filtered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import write_plan
from scipy import ndimage

from connectoscope.blockwise.plan import place_of
from connectoscope.cascade.plan import read_plan
from connectoscope.errors import Cancelled, UserError
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.segmentation import cascaded
from connectoscope.segmentation import run as run_module
from connectoscope.segmentation.asked import identity_of
from connectoscope.segmentation.cascaded import plan_segmentation
from connectoscope.segmentation.setup import set_up
from connectoscope.segmentation.targets import choose_targets
from connectoscope.volumes import downsample, open_volume
from connectoscope.volumes.geometry import Box

CORE = (8, 8, 8)


def sparse(shape, seed, balls=6):
    """Noise, and a few bright balls that may lie across cells."""
    rng = np.random.default_rng(seed)
    spots = np.zeros(shape, np.float32)
    for _ in range(balls):
        spots[tuple(int(rng.integers(n)) for n in shape)] = 1
    bright = ndimage.gaussian_filter(spots, 2.0, mode="constant")
    bright /= max(bright.max(), 1e-9)
    return np.clip(30 + 200 * bright + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)


def opened(array):
    return open_volume(array, voxel_size="8nm")


def reference(array):
    low, high = intensity_range(lambda box: array[box.slices], array.shape, 1.0, 99.0)
    padded = np.pad(normalise(array, low, high), [(h, h) for h in HALO], mode="symmetric")
    return filtered(padded)[(slice(None), *(slice(h, -h) for h in HALO))]


def identity(volume):
    bundle = FilterBundle()
    targets, _ = choose_targets(bundle.card, (), None, None)
    setup = set_up(volume, bundle, box=None, level=0, exact=False)
    return identity_of(setup, targets, False, None)


def plan_file(path, volume, threshold, factor=(2, 2, 2), **changes):
    return write_plan(
        path,
        "segment",
        changes.pop("identity", None) or identity(volume),
        CORE,
        HALO,
        factor,
        threshold,
        **changes,
    )


def stored(folder, level=0):
    import zarr

    return zarr.open_array(folder / str(level), mode="r")[...]


def expected_map(array, probabilities, threshold):
    """By brute force: gate every coarse cell, then wake until nothing changes."""
    cells = tuple(-(-n // c) for n, c in zip(array.shape, CORE, strict=True))
    coarse = downsample(array.astype(np.float32), (2, 2, 2), labels=False)
    # a coarse cell at the border is filled by reflection, as every tile is
    coarse = np.pad(
        coarse, [(0, 8 * -(-c // 2) - n) for n, c in zip(coarse.shape, cells, strict=True)], mode="symmetric"
    )
    accepted = np.zeros(cells, bool)
    for place in np.ndindex(cells):
        parent = [i // 2 * c for i, c in zip(place, CORE, strict=True)]
        cell = coarse[tuple(slice(p, p + c) for p, c in zip(parent, CORE, strict=True))]
        accepted[place] = cell.max() >= threshold
    found = probabilities[0] >= 140
    awake = accepted.copy()
    while True:
        seen = np.repeat(np.repeat(np.repeat(awake, 8, 0), 8, 1), 8, 2)[tuple(slice(n) for n in array.shape)]
        reach = ndimage.binary_dilation(found & seen, np.ones((3, 3, 3)))
        new = awake.copy()
        for place in np.ndindex(cells):
            box = tuple(slice(8 * i, 8 * i + 8) for i in place)
            new[place] |= reach[box].any()
        if (new == awake).all():
            return np.where(accepted, 2, np.where(awake, 3, 1)).astype(np.uint8)
        awake = new


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(10, 40), st.integers(20, 40), st.integers(20, 40)),
    seed=st.integers(0, 999),
    threshold=st.sampled_from([60.0, 90.0, 130.0]),
)
def test_accepted_cells_are_one_level_and_cut_objects_wake_their_neighbours(
    run, tmp_path, shape, seed, threshold
):
    array = sparse(shape, seed)
    volume = opened(array)
    out = tmp_path / f"{seed}_{'_'.join(map(str, shape))}_{threshold}.ome.zarr"
    plan = plan_file(tmp_path / "p.cascade.json", volume, threshold)
    summary = run(volume, out, cascade=plan, options={"overwrite": True})
    probabilities = reference(array)
    cells = expected_map(array, probabilities, threshold)
    np.testing.assert_array_equal(stored(out / "labels" / "cascade"), cells)
    seen = np.repeat(np.repeat(np.repeat(cells > 1, 8, 0), 8, 1), 8, 2)[tuple(slice(n) for n in shape)]
    np.testing.assert_array_equal(stored(out), np.where(seen, probabilities, 0))
    found = cc3d.connected_components((probabilities[0] >= 140) & seen, connectivity=26)
    sizes = np.bincount(found.ravel())
    assert summary["objects"]["synapses"] == int((sizes[1:] >= 3).sum())
    np.testing.assert_array_equal(stored(out / "labels" / "synapses") > 0, (found > 0) & (sizes >= 3)[found])
    assert summary["cascade"]["woken"] == int((cells == 3).sum())
    assert summary["cascade"]["calls"][0] == int((cells > 1).sum())


def test_rounds_of_wakes_do_not_look_at_every_cell_again(run, tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(run_module, "place_of", lambda id: parsed.append(id) or place_of(id))
    array = np.full((16, 16, 8 * 16), 30, np.uint8)
    array[1:7, 1:7, 2:] = 200  # one thread; its first cell alone is brighter
    array[4, 4, 4] = 255
    volume = opened(array)
    plan = plan_file(tmp_path / "p.cascade.json", volume, 205.0)
    summary = run(volume, tmp_path / "out.ome.zarr", cascade=plan)
    assert summary["cascade"]["woken"] >= 14
    cells = 2 * 2 * 16
    assert len(parsed) <= 3 * cells  # before the rounds, and for what comes after them


def test_on_disk_levels_are_used_and_the_share_read_is_told(run, tmp_path):
    from connectoscope.jobs.context import Context
    from connectoscope.tasks import convert
    from connectoscope.tasks.convert import Convert

    array = sparse((40, 200, 200), 3, balls=2)
    import tifffile

    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata={"axes": "ZYX", "PhysicalSizeX": 8, "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 8, "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 8, "PhysicalSizeZUnit": "nm"})  # fmt: skip
    convert.run(
        Convert(source=str(tmp_path / "a.ome.tif"), destination=str(tmp_path / "a.ome.zarr")),
        Context.local(tmp_path / "convert.job"),
    )
    volume = open_volume(tmp_path / "a.ome.zarr")
    plan = plan_file(tmp_path / "p.cascade.json", volume, 90.0)
    summary = run(volume, tmp_path / "out.ome.zarr", cascade=plan)
    tiles = np.zeros(array.shape, bool)
    for place in np.argwhere(stored(tmp_path / "out.ome.zarr" / "labels" / "cascade") > 1):
        box = Box(tuple(place * 8), tuple(place * 8 + 8)).grown(HALO).intersection(Box.of(array.shape))
        tiles[box.slices] = True
    assert summary["level0_read"] == pytest.approx(tiles.mean(), abs=1e-4)
    assert 0 < summary["level0_read"] < 0.2
    coarse = stored(tmp_path / "out.ome.zarr", 1)
    np.testing.assert_array_equal(
        coarse[0], downsample(stored(tmp_path / "out.ome.zarr")[0], (2, 2, 2), labels=False)
    )


@pytest.mark.parametrize("end", [Cancelled, Killed])
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(run, tmp_path, end):
    volume = opened(sparse((16, 40, 40), 5))
    plan = plan_file(tmp_path / "p.cascade.json", volume, 90.0)
    run(volume, tmp_path / "whole.ome.zarr", cascade=plan)
    expected, looks = files_of(tmp_path / "whole.ome.zarr"), run.looks
    for stop_at in range(0, looks, max(looks // 6, 1)):
        out = tmp_path / f"{stop_at}.ome.zarr"
        with pytest.raises(end):
            run(volume, out, cascade=plan, stop_at=stop_at, end=end)
        run(volume, out, cascade=plan)
        assert files_of(out) == expected, stop_at


@pytest.mark.parametrize("box", ["1:15,5:39,3:37", "8:16,8:40,0:32"])
def test_a_box_gives_what_lies_in_it(run, tmp_path, box):
    array = sparse((16, 40, 40), 5)
    volume = opened(array)
    bundle = FilterBundle()
    targets, _ = choose_targets(bundle.card, (), None, None)
    own = identity_of(set_up(volume, bundle, box=box, level=0, exact=False), targets, False, None)
    plan = plan_file(tmp_path / "p.cascade.json", volume, 0.0, identity=own)
    run(volume, tmp_path / "box.ome.zarr", cascade=plan, box=box)
    run(volume, tmp_path / "one.ome.zarr", box=box)
    for part in (".", "labels/synapses"):
        np.testing.assert_array_equal(
            stored(tmp_path / "box.ome.zarr" / part), stored(tmp_path / "one.ome.zarr" / part)
        )


def test_a_plan_for_something_else_is_refused_by_name(run, tmp_path):
    volume, other = opened(sparse((16, 40, 40), 5)), opened(sparse((16, 40, 40), 6))
    plan = plan_file(tmp_path / "p.cascade.json", other, 90.0)
    with pytest.raises(UserError, match=r"made for another run: input\.chunks was"):
        run(volume, tmp_path / "out.ome.zarr", cascade=plan)
    with pytest.raises(UserError, match=r"parameters\.threshold"):
        run(other, tmp_path / "out.ome.zarr", cascade=plan, threshold=99)
    assert not (tmp_path / "out.ome.zarr").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1}', "[1]", None])
def test_what_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "x.cascade.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="plan-cascade"):
        read_plan(path)


@pytest.fixture
def planned(run, tmp_path, monkeypatch):
    """planned(array, context options) -> the plan, with the run's small tiles."""
    from filter_model import Interrupting

    monkeypatch.setattr(
        cascaded, "choose_tile", lambda *_: tuple(c + 2 * h for c, h in zip(CORE, HALO, strict=True))
    )

    def plan(volume, floor=0.9, seed=0):
        bundle = FilterBundle()
        targets, _ = choose_targets(bundle.card, (), None, None)
        setup = set_up(volume, bundle, box=None, level=0, exact=False)
        context = Interrupting.local(tmp_path / f"plan{seed}.job", threads=1)
        return plan_segmentation(
            setup,
            targets,
            identity_of(setup, targets, False, None),
            context,
            mask=None,
            asked={},
            floor=floor,
            seed=seed,
        )

    return plan


def test_a_plan_of_a_sparse_volume_pays_and_keeps_what_it_says(run, planned, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "connectoscope.cascade.pilot._time_tiles", lambda *_: 1.0
    )  # a dear one-level detector
    array = sparse((16, 96, 96), 1, balls=4)
    volume = opened(array)
    plan = planned(volume)
    assert plan.pays
    assert plan.verdict.startswith("A cascade will take")
    path = tmp_path / "own.cascade.json"
    plan.write(path)
    assert read_plan(path) == plan
    summary = run(volume, tmp_path / "out.ome.zarr", cascade=str(path))
    cells = summary["cascade"]["cells"]
    assert cells == 2 * 12 * 12
    woken, accepted = summary["cascade"]["woken"], summary["cascade"]["calls"][0]
    assert accepted - woken == pytest.approx(plan.predicted.calls[0], rel=0.01)
    assert summary["cascade"]["calls"][1:] == [round(n) for n in plan.predicted.calls[1:]]
    assert accepted < cells / 2
    full = run(volume, tmp_path / "one.ome.zarr")
    assert summary["objects"] == full["objects"]
    np.testing.assert_array_equal(
        stored(tmp_path / "out.ome.zarr" / "labels" / "synapses"),
        stored(tmp_path / "one.ome.zarr" / "labels" / "synapses"),
    )


def test_nothing_in_the_pilot_says_what_that_means(planned):
    array = np.indices((16, 64, 64)).sum(axis=0).astype(np.uint8) % 2
    array[::4, ::4, ::4] = 200  # bright voxels stand alone: their local mean is far below the threshold
    with pytest.raises(UserError, match=r"nothing was found in the pilot .* 95 % confidence at most"):
        planned(opened(array))


def test_a_volume_of_one_cell_has_no_cascade(planned):
    with pytest.raises(UserError, match="too small for a cascade"):
        planned(opened(sparse((8, 8, 8), 0)))


def test_auto_plans_once_and_uses_the_plan_only_if_it_pays(run, planned, tmp_path, monkeypatch):
    volume = opened(sparse((16, 96, 96), 1, balls=4))
    monkeypatch.setattr("connectoscope.cascade.pilot._time_tiles", lambda *_: 1.0)
    paying = run(volume, tmp_path / "a.ome.zarr", cascade="auto")
    assert paying["cascade"]["calls"][0] < paying["cascade"]["cells"]
    monkeypatch.setattr("connectoscope.cascade.pilot._time_tiles", lambda *_: 0.0)  # nothing can be saved
    dense = run(volume, tmp_path / "b.ome.zarr", cascade="auto")
    assert "cascade" not in dense
    assert any("is not worth it" in text for text in dense["warnings"])
    path = tmp_path / "own.cascade.json"
    planned(volume).write(path)
    given = run(volume, tmp_path / "c.ome.zarr", cascade=str(path))
    assert "cascade" not in given
    assert any("is not worth it" in text for text in given["warnings"])


def test_an_unfinished_run_whose_own_plan_is_gone_is_not_gone_on_with(run, planned, tmp_path, monkeypatch):
    """Another plan may leave out other parts: the result would be of both."""
    volume, out = opened(sparse((16, 96, 96), 1, balls=4)), tmp_path / "a.ome.zarr"
    monkeypatch.setattr("connectoscope.cascade.pilot._time_tiles", lambda *_: 1.0)
    run(volume, tmp_path / "whole.ome.zarr", cascade="auto")
    with pytest.raises(Cancelled):
        run(volume, out, cascade="auto", stop_at=run.looks - 5, end=Cancelled)
    assert out.exists()
    (plan,) = (path for path in tmp_path.rglob("auto.cascade.json") if "whole" not in str(path))
    kept = plan.read_bytes()
    for text in (None, kept.replace(b'"box": "', b'"box": "9')):  # gone, or of something else
        plan.unlink() if text is None else plan.write_bytes(text)
        with pytest.raises(UserError, match="which held the plan of its cascade, is gone: use --overwrite"):
            run(volume, out, cascade="auto")
    plan.write_bytes(kept)
    run(volume, out, cascade="auto")


def test_a_plan_that_promises_too_little_is_told_where_nobody_has_seen_it(
    run, planned, tmp_path, monkeypatch
):
    volume = opened(sparse((16, 96, 96), 1, balls=4))
    monkeypatch.setattr("connectoscope.cascade.pilot._time_tiles", lambda *_: 1.0)
    few = "connectoscope.cascade.planner.Planner._drawn_recall"  # as of a pilot that saw little
    monkeypatch.setattr(few, lambda *_, **__: np.full(100, 0.5))
    path, out = tmp_path / "own.cascade.json", tmp_path / "a.ome.zarr"
    plan = planned(volume)
    plan.write(path)
    assert (plan.pays, plan.promised) == (True, False)
    told = run(volume, out, cascade="auto")
    assert "too few to promise 98 %" in told["warnings"][0]
    assert run(volume, out, cascade="auto")["warnings"] == told["warnings"]
    assert not run(volume, tmp_path / "b.ome.zarr", cascade=str(path))["warnings"]
