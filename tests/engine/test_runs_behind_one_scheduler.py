"""Workers outlive a run: the next one to the same destination has nothing of it."""

from __future__ import annotations

import pytest
from filter_model import FilterBundle, blobs, files_of

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.segmentation import elsewhere
from connectoscope.segmentation.elsewhere import makers
from connectoscope.segmentation.run import segment
from connectoscope.tasks.segment import Segment
from connectoscope.volumes import ImageSpec, create_image, open_volume

distributed = pytest.importorskip("distributed")

SHAPE = (8, 16, 16)


@pytest.fixture
def behind(run, monkeypatch):
    """behind(source, destination, **options of the request): segments behind one scheduler, whose worker goes on; the job."""
    monkeypatch.setattr(elsewhere, "find_model", lambda name: FilterBundle())
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:

        def behind_(source, destination, **options):
            values = {"source": str(source), "destination": str(destination), "model": "filter"}
            request = JobRequest(
                task="segment", parameters=values, device="cpu", threads=1, scheduler=cluster.scheduler_address, **options
            )  # fmt: skip
            job = JobFolder.create(request)
            segment(open_volume(source), FilterBundle(), Segment(**values), Context(job, request))
            return job

        yield behind_
    elsewhere._station.cache_clear()


def volume(path, array):
    spec = ImageSpec(array.shape, array.dtype, (8.0, 8.0, 8.0), (0, 0, 0), "nanometer", (8, 8, 8))
    create_image(path, spec)[0].write(array).result()
    return path


def test_a_run_to_the_same_destination_is_of_its_own_volume(run, behind, tmp_path):
    array = blobs(SHAPE)
    one, other = volume(tmp_path / "one.ome.zarr", array), volume(tmp_path / "other.ome.zarr", 255 - array)
    behind(one, tmp_path / "out.ome.zarr")
    job = behind(other, tmp_path / "out.ome.zarr", overwrite=True)
    run(open_volume(other), tmp_path / "alone.ome.zarr")
    assert voxels(tmp_path / "out.ome.zarr") == voxels(tmp_path / "alone.ome.zarr")
    assert not list(job.scratch.glob("run.name*"))


def test_a_block_of_a_run_that_is_over_is_not_written(behind, tmp_path):
    source, out = volume(tmp_path / "volume.ome.zarr", blobs(SHAPE)), tmp_path / "out.ome.zarr"
    job = behind(source, out)
    before = files_of(out)
    with makers(job, False) as work:
        assert work("0_0_0")[0]
        (out / "0" / "c" / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(UserError, match="not of the run that asks"):
        work("0_0_0")
    with makers(job, False), pytest.raises(UserError, match="not of the run that asks"):
        work("0_0_0")
    assert files_of(out).keys() == before.keys() - {"0/c/0/0/0/0"}


def voxels(folder):
    """The chunks of an image and its labels, without what names the request."""
    return {path: data for path, data in files_of(folder).items() if not path.endswith(".json")}
