"""Where a new volume may lie: beside others, also in a group of them, but not in another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from connectoscope import cli


def made(folder: Path, place: str) -> int:
    np.save(folder / "a.npy", np.ones((2, 4, 4), "u1"))
    return cli.run(["convert", str(folder / "a.npy"), str(folder / place), "--labels"])


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_a_group_of_volumes_may_get_another_one(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "all.zarr", zarr_format=3)
    assert made(tmp_path, "all.zarr/one.ome.zarr") == 0
    zarr.consolidate_metadata(tmp_path / "all.zarr", zarr_format=3)  # tells of its volumes now
    assert made(tmp_path, "all.zarr/two.ome.zarr") == 0
    assert made(tmp_path, "all.zarr/two.ome.zarr/0/three.ome.zarr") == 2


def test_labels_that_are_of_no_image_say_so(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    assert made(tmp_path, "labels/one.ome.zarr") == 0
    assert zarr.open_group(tmp_path / "labels" / "one.ome.zarr").attrs["ome"]["image-label"] == {}
