"""Tiles: their choice, and that cutting a tile out of a larger one gives the same voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.errors import UserError
from connectoscope.networks.predictor import TILE_VOXELS, Predictor, choose_tile, make_predictor
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments

ARGUMENTS = UNet3dArguments(2, (4, 8), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),), (1, 2, 2))


@pytest.fixture(scope="module")
def network() -> UNet3d:
    torch.manual_seed(3)
    return UNet3d(ARGUMENTS).eval()


def predictor(network: UNet3d, tile: tuple[int, int, int]) -> Predictor:
    halo = ARGUMENTS.halo()
    return make_predictor(
        network,
        ("a", "b"),
        tile=tile,
        halo=halo,
        stride=ARGUMENTS.total_stride,
        threads=torch.get_num_threads(),
    )


def test_a_tile_gives_what_the_whole_gives(network: UNet3d) -> None:
    hz, hy, hx = ARGUMENTS.halo()
    image = np.random.default_rng(0).random((4 + 2 * hz, 40 + 2 * hy, 40 + 2 * hx), np.float32) - 0.5
    whole = predictor(network, image.shape)(image)
    part = predictor(network, (2 + 2 * hz, 16 + 2 * hy, 24 + 2 * hx))
    cut = part(image[1 : 3 + 2 * hz, 8 : 24 + 2 * hy, 12 : 36 + 2 * hx])
    assert np.abs(cut.astype(int) - whole[:, 1:3, 8:24, 12:36]).max() <= 1
    assert (cut != whole[:, 1:3, 8:24, 12:36]).mean() < 1e-3


def test_only_one_input_shape(network: UNet3d) -> None:
    ready = predictor(network, (4, 32, 32))
    with pytest.raises(ValueError, match="takes tiles of"):
        ready(np.zeros((4, 32, 36), np.float32))


@pytest.mark.parametrize("tile", [(2, 32, 32), (4, 33, 32)])
def test_impossible_tiles_are_refused(network: UNet3d, tile: tuple[int, int, int]) -> None:
    with pytest.raises(UserError, match=r"larger tile|multiples"):
        predictor(network, tile)


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 300), st.integers(1, 4000), st.integers(1, 4000)),
    halo=st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 6)),
)
def test_chosen_tiles_fit(grid: tuple[int, int, int], halo: tuple[int, int, int]) -> None:
    stride = (1, 8, 8)
    margin = tuple(h * s for h, s in zip(halo, stride, strict=True))
    tile = choose_tile(grid, margin, stride)  # type: ignore[arg-type]
    for t, h, s, n in zip(tile, margin, stride, grid, strict=True):
        assert t % s == 0
        assert 0 < t - 2 * h <= n + s  # a core, and no larger than the grid needs
    assert np.prod(tile) <= 1.3 * TILE_VOXELS
