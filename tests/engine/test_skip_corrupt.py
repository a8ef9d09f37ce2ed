"""``--skip-corrupt``: chunks that hold nothing any more are 0 for the network and nothing at all for normalisation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from filter_model import HALO, blobs, filtered

from connectoscope.blockwise.engine import Engine
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Lattice
from connectoscope.cascade.gates import ClassicalGate
from connectoscope.cascade.ladder import Averaged, Rung
from connectoscope.cascade.run import Cascade, Step
from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.networks.normalise import normalise
from connectoscope.volumes import ImageSpec, create_image, open_volume, set_attributes
from connectoscope.volumes.geometry import Box

SHAPE, CHUNK = (20, 24, 24), (8, 8, 8)
GONE = Box((8, 8, 16), (16, 16, 24))


@pytest.fixture
def damaged(tmp_path):
    """A volume whose chunk ``GONE`` is cut short; (path, voxels before)."""
    array = np.maximum(blobs(SHAPE, 5), 1)
    path = tmp_path / "source.ome.zarr"
    spec = ImageSpec(SHAPE, array.dtype, (8, 8, 8), (0, 0, 0), "nanometer", CHUNK)
    create_image(path, spec)[0].write(array).result()
    chunk = path / "0" / "c" / "1" / "1" / "2"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    return path, array


def test_the_rest_is_as_it_would_be(run, tmp_path, damaged):
    path, array = damaged
    out = tmp_path / "out.ome.zarr"
    summary = run(open_volume(path).skipping_corrupt(), out, skip_corrupt=True)
    assert summary["skipped_chunks"] == [str(GONE)]
    assert summary["warnings"][-1] == f"1 chunk of the source is corrupt, taken as 0: {GONE}"

    kept = np.ones(SHAPE, bool)
    kept[GONE.slices] = False
    low, high = json.loads(JobFolder(f"{out}.job").plan_path.read_text())["intensity"]
    assert (low, high) == pytest.approx(np.percentile(array[kept], (1.0, 99.0)))
    padded = np.pad(normalise(array * kept, low, high), [(h, h) for h in HALO], mode="symmetric")
    expected = filtered(padded)[(slice(None), *(slice(h, -h) for h in HALO))]
    for channel in range(2):
        made = open_volume(out, channel=channel)
        np.testing.assert_array_equal(made.read(Box.of(SHAPE)), expected[channel])


def test_only_what_a_resampled_box_reads_is_told(run, tmp_path, damaged):
    path, _ = damaged
    for box, found in (("0:20,0:24,0:8", None), ("0:20,0:24,12:24", [str(GONE)])):
        volume = open_volume(path, voxel_size="4nm").skipping_corrupt()
        out = tmp_path / f"{box[-4:].replace(':', '-')}.ome.zarr"
        summary = run(volume, out, box=box, core=(4, 4, 4), skip_corrupt=True)
        assert summary.get("skipped_chunks") == found


def test_no_cell_is_rejected_for_what_cannot_be_read(tmp_path, damaged):
    path, _ = damaged
    grid = Grid(open_volume(path).skipping_corrupt())
    rung = Rung((2, 2, 2), Averaged(grid, (2, 2, 2)), made=True)
    gate = ClassicalGate("none", (0, 0, 0), lambda cell, halo: 0.0)
    cells = {(z, y, x) for z in range(5) for y in range(6) for x in range(6)}
    context = Context.local(tmp_path / "job", threads=1)
    cascade = Cascade(Lattice((4, 4, 4), (0, 0, 0), (1, 1, 1)), [Step(rung, gate, 0.5)])
    with Ledger(context.job.ledger_path) as ledger:
        accepted = cascade.accept(Engine(context, ledger), ledger, cells)
        entries = {e["id"]: e for e in ledger.entries("gate")}
    assert {id for id, e in entries.items() if "skipped" in e} == {"gate 2x2x2/1_1_2"}
    assert entries["gate 2x2x2/1_1_2"]["skipped"] == [str(GONE)]
    assert accepted == {cell for cell in cells if rung.parent(cell) == (1, 1, 2)}


def test_a_source_that_lacks_chunks_is_told(run, tmp_path):
    path = tmp_path / "source.ome.zarr"
    spec = ImageSpec(SHAPE, np.dtype("u1"), (8, 8, 8), (0, 0, 0), "nanometer", CHUNK)
    create_image(path, spec)[0].write(blobs(SHAPE, 5)).result()
    set_attributes(path, summary={"skipped_chunks": ["a", "b"]})
    summary = run(open_volume(path), tmp_path / "out.ome.zarr")
    assert (
        "source.ome.zarr was made with --skip-corrupt: 2 chunks of its source are missing in it"
        in (summary["warnings"])
    )


def test_it_may_be_added_to_a_run_and_not_taken_away(tmp_path, monkeypatch):
    def request(**more):
        return JobRequest.make(
            "segment", {"source": "sample:vnc", "destination": str(tmp_path / "a.ome.zarr"), **more}
        )

    job = JobFolder.create(request())
    job.ledger_path.write_text("{}\n")
    assert JobFolder.create(request(skip_corrupt=True)).request.parameters["skip_corrupt"] is True
    with pytest.raises(UserError, match="skip_corrupt was True, now False"):
        JobFolder.create(request())
    with pytest.raises(UserError, match="level was 0, now 1"):
        JobFolder.create(request(skip_corrupt=True, level=1))
