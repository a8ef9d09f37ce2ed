"""The makers of sparse volumes, on small made-up sets."""

from __future__ import annotations

import csv

import make_sparse
import numpy as np
import pytest
from scipy import ndimage
from sparse_lightsheet import APART, VOXEL, LightSheet
from sparse_synapses import SynapseTiles

from connectoscope.errors import UserError
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box

LIGHT = (40, 160, 192)
TILES = (16, 384, 448)


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    """Shot noise around 200, and in the training planes eight cells of 1,200."""
    rng = np.random.default_rng(0)
    cells = np.zeros((30, 256, 256))
    for z, y, x in places_of_cells():
        cells[z, y, x] = 1
    cells = ndimage.gaussian_filter(cells, 5 / VOXEL)
    return rng.poisson(200 + cells * (1200 / cells.max())).astype(np.uint16)


def places_of_cells() -> list[tuple[int, int, int]]:
    return [(z, y, x) for z in (4, 26) for y in (20, 40) for x in (20, 60)]


@pytest.fixture(scope="module")
def light(planes) -> LightSheet:
    return LightSheet(planes, LIGHT, seed=1)


@pytest.fixture(scope="module")
def piece() -> tuple[np.ndarray, np.ndarray]:
    """Sections of noise, and two synapses: dark squares of 20 pixels through three sections."""
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(0, 60, (4, 256, 256)), (0, 2, 2)) * 4 + 150
    marked = np.zeros(image.shape, np.uint8)
    marked[1:4, 100:120, 60:80] = 1
    marked[0:3, 60:80, 160:180] = 1
    image[marked > 0] = 10
    return np.clip(image, 30 * (marked == 0), 255).astype(np.uint8), marked


@pytest.fixture(scope="module")
def tiles(piece) -> SynapseTiles:
    return SynapseTiles(*piece, TILES, seed=1, suspects=())


@pytest.mark.parametrize("name", ["light", "tiles"])
def test_any_box_holds_what_the_whole_holds(name, request) -> None:
    made = request.getfixturevalue(name)
    whole = Box.of(made.shape)
    image, labels = made.read(whole), made.labels(whole)
    assert (image.shape, image.dtype) == (made.shape, made.dtype)
    for box in (Box((3, 17, 100), (15, 140, 190)), Box((5, 126, 0), (7, 130, 1))):
        assert np.array_equal(made.read(box), image[box.slices])
        if labels is not None:
            assert np.array_equal(made.labels(box), labels[box.slices])


def test_cells_lie_where_the_truth_says_and_apart(light) -> None:
    image = light.read(Box.of(LIGHT)).astype(np.float32)
    dog = ndimage.gaussian_filter(image, 4 / VOXEL) - ndimage.gaussian_filter(image, 8 / VOXEL)
    places = np.array(light.truth)
    assert len(places)
    assert dog[tuple(places.T)].min() > 5 * dog.std()
    gaps = np.linalg.norm((places[:, None] - places) * VOXEL, axis=2)
    assert gaps[~np.eye(len(places), dtype=bool)].min(initial=np.inf) >= APART


def test_background_keeps_level_and_noise_also_at_joins(planes, light) -> None:
    image = light.read(Box.of(LIGHT)).astype(np.float64)
    detail = image - ndimage.uniform_filter(image, (1, 15, 15))
    far = ndimage.distance_transform_edt(_without(light.truth, LIGHT), sampling=VOXEL) > 60
    assert np.median(image) == pytest.approx(200, rel=0.35)
    joins = np.zeros(LIGHT, bool)
    joins[:, :, 112:128] = True  # two patches overlap here
    ratio = detail[far & joins].std() / detail[far & ~joins].std()
    assert ratio == pytest.approx(1, abs=0.1)


def test_synapses_are_dark_where_the_truth_says_and_nowhere_else(tiles) -> None:
    whole = Box.of(TILES)
    image, labels = tiles.read(whole), tiles.labels(whole)
    assert len(tiles.truth) == labels.max() > 0
    assert (image[labels > 0] == 10).all()
    assert image[labels == 0].min() >= 29
    for number, *centre_and_box in tiles.truth:
        where = np.argwhere(labels == number)
        bounds = np.stack([where.min(0), where.max(0) + 1], 1).ravel()
        assert centre_and_box == pytest.approx([*where.mean(0), *bounds], abs=0.01)


def test_share_of_cells_is_that_of_the_labels(tiles) -> None:
    labels = tiles.labels(Box.of(TILES))
    z, y, x = (-(-n // c) for n, c in zip(TILES, tiles.cell, strict=True))
    held = {tuple(v // tiles.cell) for v in np.argwhere(labels)}
    assert tiles.positive() == pytest.approx(len(held) / (z * y * x))


def test_another_seed_is_another_volume(planes, light) -> None:
    box = Box((0, 0, 0), (8, 64, 64))
    assert np.array_equal(LightSheet(planes, LIGHT, seed=1).read(box), light.read(box))
    other = LightSheet(planes, LIGHT, seed=2)
    assert other.truth != light.truth
    assert not np.array_equal(other.read(box), light.read(box))


def test_command_writes_volume_pyramid_labels_and_truth(tiles, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(SynapseTiles, "of_size", classmethod(lambda cls, megavoxels, seed: tiles))
    out = tmp_path / "few.ome.zarr"
    make_sparse.make("synapse-tiles", out, 3, 1)
    volume = open_volume(out)
    assert (volume.shape, volume.unit, volume.levels[0].scale) == (TILES, "nanometer", (47.5, 4.6, 4.6))
    assert len(volume.levels) == 3
    assert np.array_equal(volume.read(Box.of(TILES)), tiles.read(Box.of(TILES)))
    assert np.array_equal(
        open_volume(out / "labels/synapses").read(Box.of(TILES)), tiles.labels(Box.of(TILES))
    )
    with (tmp_path / "few.truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == [row[0] for row in tiles.truth]
    with pytest.raises(UserError, match="exists"):
        make_sparse.make("synapse-tiles", out, 3, 1)


def test_bad_requests_are_one_line(planes, monkeypatch, tmp_path) -> None:
    with pytest.raises(UserError, match="too few"):
        LightSheet(planes, (4, 64, 64), seed=0)
    with pytest.raises(UserError, match=r"name it few\.ome\.zarr"):
        make_sparse.make("lightsheet", tmp_path / "few.zarr", 1, 0)
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
    with pytest.raises(UserError, match="CONNECTOSCOPE_DATA"):
        make_sparse.make("lightsheet", tmp_path / "few.ome.zarr", 1, 0)


def _without(places, shape) -> np.ndarray:
    empty = np.ones(shape, bool)
    empty[tuple(np.array(places).T)] = False
    return empty
