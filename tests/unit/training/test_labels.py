"""Volumes of other pixels than the recipe's, and boundaries that are derived from instances."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from tiny_recipe import RECIPE

from connectoscope.errors import UserError
from connectoscope.training.labels import boundaries, plane_grid, resampled_mask
from connectoscope.training.recipe import load_recipe
from connectoscope.training.sampler import load_volume
from connectoscope.volumes import open_volume


def test_boundaries_are_next_to_another_label_and_dilated_once():
    cells = np.ones((5, 7, 9), np.uint16)
    cells[:, :, 5:] = 2
    wanted = np.zeros(cells.shape, bool)
    wanted[:, :, 3:7] = True
    np.testing.assert_array_equal(boundaries(cells), wanted)
    np.testing.assert_array_equal(boundaries(cells.transpose(2, 0, 1)), wanted.transpose(2, 0, 1))
    assert not boundaries(np.full((3, 3, 3), 7)).any()


def test_a_mask_is_kept_where_half_of_the_new_voxel_is():
    volume = open_volume(np.zeros((2, 4, 8), np.uint8), voxel_size="50,4,4nm")
    grid = plane_grid(volume, (30.0, 8.0, 8.0))  # sections stay as they are
    assert grid.shape == (2, 2, 4)
    mask = np.zeros((2, 4, 8), bool)
    mask[:, 0, :] = True  # half of the first row
    mask[0, 2, 0] = True  # a quarter of a voxel
    found = resampled_mask(mask, grid)
    assert found[:, 0].all()
    assert not found[:, 1].any()
    assert plane_grid(open_volume(np.zeros((2, 4, 8), np.uint8)), (30.0, 8.0, 8.0)).shape == (2, 4, 8)


def test_a_recipe_takes_finer_volumes_and_instances(tmp_path, monkeypatch):
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
    cells = np.kron(np.arange(16, dtype=np.uint16).reshape(4, 4) + 1, np.ones((32, 32), np.uint16))
    cells = np.stack([cells] * 10)
    facts = {"axes": "ZYX", "PhysicalSizeX": 4, "PhysicalSizeY": 4, "PhysicalSizeZ": 10}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    for name, data in (("raw", (cells * 10).astype(np.uint8)), ("labels", cells)):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", data, metadata=facts | units)
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.replace("labels = {", "boundaries_of = {"))
    recipe = load_recipe(path)
    volume = load_volume(recipe, recipe.volumes[0])
    assert volume.image.shape == (10, 64, 64)  # 4 nm pixels, 8 nm wanted; planes as they are
    assert volume.labels.shape == (1, 10, 64, 64)
    assert volume.labels[0, :, 15:17].all()
    assert not volume.labels[0, :, 4:12, 4:12].any()
    path.write_text(RECIPE.replace("labels = { synapses", "boundaries_of = { other"))
    recipe = load_recipe(path)
    with pytest.raises(UserError, match="no label for the output 'synapses'"):
        load_volume(recipe, recipe.volumes[0])
