"""The peer is optional."""

from __future__ import annotations

import sys

import peer_cellfinder
import pytest


def test_without_cellfinder_it_is_skipped_with_what_to_do(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("CELLFINDER_PYTHON", str(tmp_path / "none"))
    monkeypatch.setattr(sys, "argv", ["peer_cellfinder.py", "volume.tif", str(tmp_path / "out.csv")])
    assert peer_cellfinder.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("skipped: cellfinder is not installed")
    assert "CELLFINDER_PYTHON" in said


def test_points_are_asked_for_in_planes_and_each_slab_is_read_once() -> None:
    numpy = pytest.importorskip("numpy")
    ts = pytest.importorskip("tensorstore")
    array = numpy.arange(10 * 2 * 3, dtype=numpy.uint16).reshape(10, 2, 3)
    metadata = {"shape": array.shape, "data_type": "uint16"}
    metadata["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": [4, 2, 3]}}
    spec = {"driver": "zarr3", "kvstore": "memory://", "metadata": metadata, "create": True}
    store = ts.open(spec).result()
    store.write(array).result()
    planes = peer_cellfinder._Planes(store, 1, 9)
    assert (len(planes), planes.shape, planes.dtype) == (8, (8, 2, 3), array.dtype)
    assert numpy.array_equal(planes[2:6, :, :], array[3:7])
    assert numpy.array_equal(planes[6:20, :, :], array[7:9])
