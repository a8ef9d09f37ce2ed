"""The whole road with a small exact filter in place of the network: equality, resume, refusals."""

from __future__ import annotations

import csv
import json
import shutil

import cc3d
import numpy as np
import pytest
from filter_model import HALO, FilterBundle, Killed, blobs, files_of, filtered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectoscope.blockwise import plan as plan_module
from connectoscope.blockwise.ledger import Ledger
from connectoscope.errors import Cancelled, Stopped, UserError
from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.segmentation import run as run_module
from connectoscope.segmentation.probabilities import ProbabilityMaker
from connectoscope.tasks import convert
from connectoscope.volumes import downsample, open_volume, pyramid_factors
from connectoscope.volumes.geometry import parse_box

quick = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_pyramids(monkeypatch):
    monkeypatch.setattr(
        run_module, "pyramid_factors", lambda shape, scale: pyramid_factors(shape, scale, smallest=5)
    )


def opened(array, **kw):
    return open_volume(array, voxel_size="8nm", **kw)


def reference(array):
    """Probabilities of the whole volume at once, padded symmetrically."""
    low, high = intensity_range(lambda box: array[box.slices], array.shape, 1.0, 99.0)
    padded = np.pad(normalise(array, low, high), [(h, h) for h in HALO], mode="symmetric")
    return filtered(padded)[(slice(None), *(slice(h, -h) for h in HALO))]


def reference_labels(probabilities, threshold=140, floor=3):
    """Components of the whole image, numbered by first voxel in raster order."""
    found = cc3d.connected_components(np.ascontiguousarray(probabilities >= threshold), connectivity=26)
    values, first, counts = np.unique(found, return_index=True, return_counts=True)
    keep = [(f, v) for v, f, c in zip(values, first, counts, strict=True) if v and c >= floor]
    table = np.zeros(found.max() + 1, np.int64)
    for number, (_, value) in enumerate(sorted(keep), start=1):
        table[value] = number
    return table[found]


def stored(destination, level=0):
    import zarr

    return zarr.open_array(destination / str(level), mode="r")[...]


@quick
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 30)),
    core=st.tuples(*[st.sampled_from([4, 8, 16])] * 3),
    seed=st.integers(0, 99),
)
def test_blockwise_is_the_whole_volume_with_exact_labels(run, tmp_path, shape, core, seed):
    array = blobs(shape, seed)
    if array.max() == array.min():
        return
    out = tmp_path / f"{seed}_{'_'.join(map(str, shape + core))}.ome.zarr"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(f"{out}.job", ignore_errors=True)
    summary = run(opened(array), out, core=core)
    expected = reference(array)
    np.testing.assert_array_equal(stored(out), expected)
    labels = reference_labels(expected[0])
    np.testing.assert_array_equal(stored(out / "labels" / "synapses"), labels)
    assert summary["objects"] == {"synapses": labels.max()}


@quick
@given(data=st.data())
def test_a_box_gives_the_values_of_the_full_run_cut_out(run, tmp_path, data):
    shape = (20, 26, 24)
    array = blobs(shape, 3)
    ends = [
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape
    ]
    text = ",".join(f"{a}:{b}" for a, b in ends)
    out = tmp_path / f"{text.replace(':', '-')}.ome.zarr"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(f"{out}.job", ignore_errors=True)
    run(opened(array), out, box=text)
    box = parse_box(text)
    cut = reference(array)[(slice(None), *box.slices)]
    np.testing.assert_array_equal(stored(out), cut)
    np.testing.assert_array_equal(stored(out / "labels" / "synapses"), reference_labels(cut[0]))
    made = open_volume(out, channel=0)
    assert made.levels[0].translation == tuple(8.0 * s for s in box.start)


def test_pyramids_equal_the_reference_and_tables_describe_the_labels(run, tmp_path):
    array = blobs((40, 150, 140), 1)
    out = tmp_path / "out.ome.zarr"
    run(opened(array), out, core=(16, 64, 48))
    levels = len(open_volume(out, channel=0).levels)
    assert levels > 1
    for k in range(1, levels):
        finer, coarser = stored(out, k - 1), stored(out, k)
        step = tuple(-(-a // b) for a, b in zip(finer.shape[1:], coarser.shape[1:], strict=True))
        np.testing.assert_array_equal(coarser, downsample(finer, step, labels=False))
        labels = out / "labels" / "synapses"
        np.testing.assert_array_equal(stored(labels, k), downsample(stored(labels, k - 1), step, labels=True))
    labels, probabilities = stored(out / "labels" / "synapses"), stored(out)[0]
    with (out / "tables" / "synapses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["id"]) for r in rows] == list(range(1, labels.max() + 1))
    for row in rows:
        where = np.argwhere(labels == int(row["id"]))
        np.testing.assert_allclose([float(row[a]) for a in "zyx"], where.mean(axis=0) * 8, atol=1e-6)
        assert [int(row[f"{a}0"]) for a in "zyx"] == where.min(axis=0).tolist()
        assert [int(row[f"{a}1"]) for a in "zyx"] == (where.max(axis=0) + 1).tolist()
        assert float(row["volume_nm3"]) == len(where) * 512
        mean = probabilities[labels == int(row["id"])].mean() / 255
        np.testing.assert_allclose(float(row["mean_probability"]), mean, atol=1e-6)
        assert row["unit"] == "nanometer"


@pytest.mark.parametrize(
    ("box", "end"), [(None, Cancelled), ("1:12,5:19,0:18", Cancelled), (None, Killed)], ids=str
)
def test_interrupted_anywhere_and_resumed_gives_the_same_bytes(run, tmp_path, monkeypatch, box, end):
    small_pyramids(monkeypatch)
    volume = opened(blobs((12, 20, 18), 5))
    whole = tmp_path / "a" / "out.ome.zarr"
    whole.parent.mkdir()
    run(volume, whole, box=box)
    expected, looks = files_of(whole), run.looks
    assert {"1/zarr.json", "labels/synapses/2/zarr.json", "tables/synapses.csv"} <= set(expected)
    assert not [name for name in expected if name.endswith(("__lock", ".part"))]
    labels = json.loads((whole / "labels" / "synapses" / "zarr.json").read_text())["attributes"]["ome"]
    assert labels["image-label"] == {"source": {"image": "../../"}}
    for stop_at in range(0, looks, max(looks // 7, 1)):
        out = tmp_path / str(stop_at) / "out.ome.zarr"
        out.parent.mkdir()
        with pytest.raises(end):
            run(volume, out, box=box, stop_at=stop_at, end=end)
        if out.exists():
            (out / "0" / "x.__lock").write_text("")  # as TensorStore leaves it when it is killed
        run(volume, out, box=box)
        assert files_of(out) == expected, stop_at


def test_interrupted_again_and_again_with_torn_lines(run, tmp_path, monkeypatch):
    small_pyramids(monkeypatch)
    volume = opened(blobs((12, 20, 18), 5))
    whole, out = tmp_path / "whole.ome.zarr", tmp_path / "out.ome.zarr"
    run(volume, whole)
    for _ in range(200):
        try:
            run(volume, out, stop_at=3)
            break
        except Cancelled:
            with (tmp_path / "out.ome.zarr.job" / "ledger").open("ab") as ledger:
                ledger.write(b'{"id": "torn')
    assert files_of(out) == files_of(whole)


def test_the_order_of_blocks_and_the_chunks_of_the_source_do_not_matter(run, tmp_path, monkeypatch):
    import zarr

    small_pyramids(monkeypatch)
    array = blobs((12, 20, 18), 5)
    run(opened(array), tmp_path / "a.ome.zarr")
    # the signature names the input; what is stored must not differ otherwise
    chunked = zarr.create_array({}, shape=array.shape, chunks=(5, 3, 7), dtype=array.dtype)
    chunked[...] = array
    morton = plan_module._morton
    monkeypatch.setattr(plan_module, "_morton", lambda cells: iter(list(morton(cells))[::-1]))
    run(open_volume(chunked, voxel_size="8nm"), tmp_path / "b.ome.zarr")
    a, b = files_of(tmp_path / "a.ome.zarr"), files_of(tmp_path / "b.ome.zarr")
    assert {n: v for n, v in a.items() if "/c/" in n or "csv" in n} == {
        n: v for n, v in b.items() if "/c/" in n or "csv" in n
    }


def test_finished_blocks_are_not_computed_again(run, tmp_path):
    volume, out = opened(blobs((16, 16, 16), 5)), tmp_path / "out.ome.zarr"
    first, second = FilterBundle(), FilterBundle()
    with pytest.raises(Cancelled):
        run(volume, out, stop_at=5, bundle=first)
    run(volume, out, bundle=second)
    assert first.made[0].calls == 5
    assert second.made[0].calls == 3


def test_a_complete_result_says_so_and_a_different_request_is_refused_by_name(run, tmp_path):
    volume, out = opened(blobs((16, 16, 16), 5)), tmp_path / "out.ome.zarr"
    summary = run(volume, out)
    shutil.rmtree(f"{out}.job")
    again = run(volume, out)
    assert again["already_complete"]
    assert again["objects"] == summary["objects"]
    table = next((out / "tables").glob("*.csv"))
    table.rename(out / "away.csv")
    with pytest.raises(UserError, match=rf"its tables/{table.name} is gone.*--overwrite"):
        run(volume, out)
    (out / "away.csv").rename(table)
    with pytest.raises(UserError, match=r"threshold.*--overwrite"):
        run(volume, out, threshold=200)
    with pytest.raises(UserError, match=r"input"):
        run(opened(blobs((16, 16, 16), 6)), out)
    shutil.rmtree(f"{out}.job")
    assert "already_complete" not in run(volume, out, threshold=200, options={"overwrite": True})


def test_an_unfinished_result_of_another_request_is_refused(run, tmp_path):
    volume, out = opened(blobs((16, 16, 16), 5)), tmp_path / "out.ome.zarr"
    with pytest.raises(Cancelled):
        run(volume, out, stop_at=3)
    before = files_of(out)
    with pytest.raises(UserError, match="min_volume"):
        run(volume, out, min_volume=10000)
    assert files_of(out) == before
    shutil.rmtree(f"{out}.job")  # lost: begins again, same bytes
    run(volume, out)
    run(volume, tmp_path / "other.ome.zarr")
    assert files_of(out) == files_of(tmp_path / "other.ome.zarr")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_touched(run, tmp_path, overwrite):
    volume = opened(blobs((8, 8, 8), 5))
    file, folder = tmp_path / "file.zarr", tmp_path / "folder.zarr"
    file.write_text("mine")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for place in (file, folder):
        with pytest.raises(UserError, match="was not made by connectoscope"):
            run(volume, place, options={"overwrite": overwrite})
    assert file.read_text() == (folder / "notes.txt").read_text() == "mine"


def test_overwrite_removes_nothing_before_all_is_checked(run, tmp_path):
    good, out = opened(blobs((8, 8, 8), 5)), tmp_path / "out.ome.zarr"
    run(good, out)
    before = files_of(out)
    shutil.rmtree(f"{out}.job")  # gone with the end of a run
    with pytest.raises(UserError, match="constant"):
        run(opened(np.full((8, 8, 8), 3, np.uint8)), out, options={"overwrite": True})
    assert files_of(out) == before
    run(good, out, options={"overwrite": True}, threshold=200)
    assert files_of(out) != before


def test_the_old_result_stays_while_no_block_of_the_new_one_can_be_made(run, tmp_path, monkeypatch):
    good, out = opened(blobs((8, 8, 8), 5)), tmp_path / "out.ome.zarr"
    run(good, out)
    before = files_of(out)
    shutil.rmtree(f"{out}.job")

    def fails(self, block):
        raise good.unreadable(parse_box("0:8,0:8,0:8"), OSError("connection reset"))

    with monkeypatch.context() as patch:
        patch.setattr(ProbabilityMaker, "read", fails)
        with pytest.raises((UserError, Stopped), match="connection reset"):
            run(good, out, threshold=200, options={"overwrite": True})
    assert files_of(out) == before
    run(good, out, threshold=200, options={"overwrite": True})
    assert files_of(out) != before


def test_a_scheduler_that_does_not_answer_costs_nothing(run, tmp_path):
    good, out = opened(blobs((8, 8, 8), 5)), tmp_path / "out.ome.zarr"
    run(good, out)
    before = files_of(out)
    shutil.rmtree(f"{out}.job")
    with pytest.raises(UserError, match="no scheduler answers"):
        run(good, out, threshold=200, options={"overwrite": True, "scheduler": "tcp://127.0.0.1:1"})
    assert files_of(out) == before


def test_a_mask_in_the_destination_is_not_destroyed(run, tmp_path):
    good, out = opened(blobs((8, 8, 8), 5)), tmp_path / "out.ome.zarr"
    run(good, out)
    before, mask = files_of(out), next((out / "labels").glob("*/zarr.json")).parent
    with pytest.raises(UserError, match="is the mask itself, holds it or lies in it"):
        run(good, out, within=str(mask), options={"overwrite": True})
    assert files_of(out) == before


def test_the_source_is_no_destination(run, tmp_path):
    outer = tmp_path / "outer.zarr"
    outer.mkdir()
    source = outer / "source.ome.zarr"
    array = blobs((8, 8, 8), 5)
    np.save(tmp_path / "a.npy", array)
    convert.run(
        convert.Convert(source=str(tmp_path / "a.npy"), destination=str(source)),
        Context.local(tmp_path / "job"),
    )
    before = files_of(source)
    for place in (source, source / "labels" / "x.zarr", outer):
        with pytest.raises(UserError, match=r"the source itself|was not made by"):
            run(opened(str(source)), place, options={"overwrite": True})
    assert files_of(source) == before


def test_a_level_that_is_not_there_is_refused_without_a_box(run, tmp_path):
    with pytest.raises(UserError, match="no level 3; its levels are 0 to 0"):
        run(opened(blobs((8, 8, 8), 5)), tmp_path / "out.ome.zarr", level=3)


def test_smaller_tiles_after_out_of_memory_keep_the_blocks(run, tmp_path):
    volume, out = opened(blobs((20, 26, 24), 5)), tmp_path / "out.ome.zarr"
    with pytest.raises(Cancelled):
        run(volume, out, stop_at=4)
    bundle = FilterBundle()
    summary = run(volume, out, tile_scale=1, bundle=bundle)
    assert bundle.made[0].tile == (8, 8, 8)
    assert any("smaller tile" in w for w in summary["warnings"])
    run(volume, tmp_path / "whole.ome.zarr")
    np.testing.assert_array_equal(stored(out), stored(tmp_path / "whole.ome.zarr"))
    plan = json.loads((tmp_path / "out.ome.zarr.job" / "plan.json").read_text())
    assert plan["revision"] == 1
    assert plan["lattice"]["tile"] == [12, 12, 12]


def test_nothing_found_gives_empty_labels_and_a_table_with_its_header(run, tmp_path):
    out = tmp_path / "out.ome.zarr"
    assert run(opened(blobs((12, 12, 12))), out, min_volume=1e12)["objects"] == {"synapses": 0}
    labels = stored(out / "labels" / "synapses")
    assert labels.dtype == np.uint8
    assert not labels.any()
    assert (out / "tables" / "synapses.csv").read_text().count("\n") == 1


def test_membranes_are_probabilities_only_and_unknown_targets_are_named(run, tmp_path):
    volume = opened(blobs((12, 12, 12)))
    summary = run(volume, tmp_path / "out.ome.zarr", target=("membranes",))
    assert summary["objects"] == {}
    assert any(w.startswith("membranes: probabilities only") for w in summary["warnings"])
    with pytest.raises(UserError, match="it has synapses, membranes"):
        run(volume, tmp_path / "b.ome.zarr", target=("vesicles",))
    assert not (tmp_path / "b.ome.zarr").exists()


def test_not_a_number_in_the_sample_is_refused_and_later_counted(run, tmp_path, monkeypatch):
    array = blobs((16, 16, 16), 2).astype(np.float32)
    array[3, 3, 3] = np.nan
    with pytest.raises(UserError, match="not numbers"):
        run(opened(array), tmp_path / "a.ome.zarr")
    assert not (tmp_path / "a.ome.zarr").exists()
    monkeypatch.setattr("connectoscope.segmentation.setup.Setup.intensity", lambda self: (10.0, 200.0))
    summary = run(opened(array), tmp_path / "a.ome.zarr")
    assert any(w.startswith("1 voxels were not numbers") for w in summary["warnings"])


def test_a_constant_block_is_background_and_recorded(run, tmp_path):
    array = blobs((8, 8, 40), 2)
    array[:, :, 20:] = 250
    summary = run(opened(array), tmp_path / "a.ome.zarr")
    assert any("constant" in w for w in summary["warnings"])
    assert not stored(tmp_path / "a.ome.zarr")[:, :, :, 32:].any()
    with pytest.raises(UserError, match="constant"):
        run(opened(np.full((8, 8, 8), 7, np.uint8)), tmp_path / "b.ome.zarr")


def test_resampled_runs_land_where_they_belong(run, tmp_path):
    array = blobs((16, 40, 40), 2)
    volume = open_volume(array, voxel_size="8,4,4nm")
    summary = run(volume, tmp_path / "a.ome.zarr", box="0:16,8:40,0:40")
    made = open_volume(tmp_path / "a.ome.zarr", channel=0)
    assert made.shape == (16, 16, 20)
    assert made.levels[0].scale == (8.0, 8.0, 8.0)
    assert made.levels[0].translation == (0.0, 2.0 + 4 * 8, 2.0)
    assert any("resampled" in w for w in summary["warnings"])


def test_events_tell_image_then_labels_and_table(run, tmp_path):
    out = tmp_path / "out.ome.zarr"
    run(opened(blobs((12, 12, 12))), out)
    events, _ = Context.local(f"{out}.job").job.read_events()
    results = [e for e in events if e["type"] == "result"]
    assert [e["kind"] for e in results] == ["image", "labels", "table"]
    assert results[0]["channels"] == ["synapses", "boundary"]


def test_an_input_that_cannot_be_read_on_stops_the_run_and_it_goes_on(run, tmp_path, monkeypatch):
    """A lost connection or a damaged chunk between two blocks: finished blocks are kept, the bytes are the same at last."""
    array = blobs((20, 26, 24), 5)
    whole, out = tmp_path / "whole.ome.zarr", tmp_path / "out.ome.zarr"
    run(opened(array), whole)
    volume = opened(array)
    read, reads = type(volume).read, iter(range(10**6))

    def fails(self, box, level=0):
        if next(reads) > 9:
            raise self.unreadable(box, OSError("connection reset"))
        return read(self, box, level)

    monkeypatch.setattr(type(volume), "read", fails)
    with pytest.raises(Stopped, match=r"connection reset; finished blocks are kept: fix that, then resume"):
        run(volume, out)
    monkeypatch.setattr(type(volume), "read", read)
    with Ledger(JobFolder(f"{out}.job").ledger_path) as ledger:
        assert 0 < len(list(ledger.entries("probabilities/"))) < 36
    run(volume, out)
    assert files_of(out) == files_of(whole)
