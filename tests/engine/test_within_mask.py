"""``--within MASK``: only what lies in the mask is computed, and everything outside is background."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from filter_model import FilterBundle
from test_cascade_run import opened, plan_file, reference, sparse, stored

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks import convert


@pytest.fixture
def mask(tmp_path):
    """mask(array, voxel size in nm) -> path of a TIFF."""

    def write(array, size=(8, 8, 8)):
        facts = {f"PhysicalSize{a}": s for a, s in zip("ZYX", size, strict=True)}
        units = {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
        path = tmp_path / f"mask{size[2]}_{array.shape[2]}.ome.tif"
        tifffile.imwrite(path, array.astype(np.uint8), metadata={"axes": "ZYX", **facts, **units})
        return str(path)

    return write


def test_only_the_mask_is_computed_and_outside_is_background(run, tmp_path, mask):
    array = sparse((16, 40, 40), 5)
    inside = np.zeros(array.shape, bool)
    inside[3:12, 4:20, 10:37] = True
    bundle = FilterBundle()
    summary = run(opened(array), tmp_path / "out.ome.zarr", within=mask(inside), bundle=bundle)
    np.testing.assert_array_equal(stored(tmp_path / "out.ome.zarr"), reference(array) * inside)
    assert bundle.made[0].calls == 2 * 3 * 4  # cells that the mask touches, of 2 x 5 x 5
    assert 0 < summary["level0_read"] < 1


def test_what_cremi_calls_nothing_is_outside_of_a_mask(run, tmp_path):
    array = sparse((16, 40, 40), 5)
    inside = np.zeros(array.shape, bool)
    inside[3:12, 4:20, 10:37] = True
    marked = np.where(inside, 7, 2**64 - 1).astype(np.uint64)
    np.save(tmp_path / "mask.npy", marked)
    path = tmp_path / "mask.ome.zarr"
    asked = convert.Convert(
        source=str(tmp_path / "mask.npy"), destination=str(path), voxel_size="8nm", labels=True
    )
    convert.run(asked, Context.local(tmp_path / "job"))
    run(opened(array), tmp_path / "out.ome.zarr", within=str(path))
    np.testing.assert_array_equal(stored(tmp_path / "out.ome.zarr"), reference(array) * inside)


def test_a_coarse_mask_is_taken_by_its_nearest_voxel(run, tmp_path, mask):
    array = sparse((16, 40, 40), 5)
    coarse = np.zeros((4, 10, 10), bool)
    coarse[1:3, 2:5, 4:9] = True
    path = mask(coarse, (32, 32, 32))  # a TIFF's voxel 0 is centred on the volume's: 12 nm off at the face
    run(opened(array), tmp_path / "out.ome.zarr", within=path)
    index = [
        np.floor(np.arange(n) * 8 / 32 + 0.5).astype(int).clip(max=m - 1)
        for n, m in zip(array.shape, (4, 10, 10), strict=True)
    ]
    inside = coarse[np.ix_(*index)]
    np.testing.assert_array_equal(stored(tmp_path / "out.ome.zarr"), reference(array) * inside)


def test_a_cascade_stays_within_the_mask(run, tmp_path, mask):
    array = sparse((16, 40, 40), 5)
    inside = np.zeros(array.shape, bool)
    inside[:, :, :16] = True
    volume, path = opened(array), mask(inside)
    with pytest.raises(UserError, match="within"):
        run(
            volume,
            tmp_path / "out.ome.zarr",
            cascade=plan_file(tmp_path / "p.cascade.json", volume, 0.0),
            within=path,
        )
    run(volume, tmp_path / "out.ome.zarr", cascade="off", within=path)
    np.testing.assert_array_equal(stored(tmp_path / "out.ome.zarr"), reference(array) * inside)


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [((16, 40, 30), (8, 8, 8), "made of this volume"), ((16, 40, 40), (8, 8, 9), "made of this volume")],
)
def test_a_mask_of_another_frame_is_refused(run, tmp_path, mask, shape, size, message):
    with pytest.raises(UserError, match=message):
        run(opened(sparse((16, 40, 40), 5)), tmp_path / "out.ome.zarr", within=mask(np.ones(shape), size))
    assert not (tmp_path / "out.ome.zarr").exists()


def test_a_mask_without_voxel_size_lies_as_the_volume_does(run, tmp_path):
    array = sparse((16, 40, 40), 5)
    inside = np.zeros(array.shape, np.uint8)
    inside[3:12, 4:20, 10:37] = 1
    np.save(tmp_path / "plain.npy", inside)
    summary = run(opened(array), tmp_path / "out.ome.zarr", within=str(tmp_path / "plain.npy"))
    np.testing.assert_array_equal(stored(tmp_path / "out.ome.zarr"), reference(array) * inside)
    assert any(
        "states no voxel size: taken to lie as the volume does" in text for text in summary["warnings"]
    )
    np.save(tmp_path / "plain.npy", inside[1:])
    with pytest.raises(UserError, match=r"no voxel size, and has another shape .*connectoscope convert"):
        run(opened(array), tmp_path / "other.ome.zarr", within=str(tmp_path / "plain.npy"))


def test_a_mask_that_leaves_nothing_is_told(run, tmp_path, mask):
    inside = np.zeros((16, 40, 40), bool)
    inside[:4] = True
    whole = run(opened(sparse((16, 40, 40), 5)), tmp_path / "a.ome.zarr", within=mask(inside))
    box = {"within": mask(inside), "box": "8:16,0:40,0:40"}
    part = run(opened(sparse((16, 40, 40), 5)), tmp_path / "b.ome.zarr", **box)
    said = [any("nothing will be looked for" in text for text in r["warnings"]) for r in (whole, part)]
    assert said == [False, True]
