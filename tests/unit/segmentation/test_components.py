"""Components across blocks equal those of the whole image, whatever the blocks."""

from __future__ import annotations

import cc3d
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as skimage_label

from connectoscope.blockwise.plan import blocks_of
from connectoscope.segmentation.components import FORWARD, Parts, describe, join, local_labels, relabel


def blockwise(probabilities, threshold, block, floor):
    shape, stored, out = probabilities.shape, {}, None
    blocks = blocks_of(shape, block)
    for b in blocks:
        labels = local_labels(probabilities[b.write.slices], threshold)
        if labels.any():
            place = tuple(map(int, b.id.split("_")))
            stored[place] = describe(labels, probabilities[b.write.slices], b.write, shape).to_bytes()
    objects = join(
        {place: len(Parts.from_bytes(data)) for place, data in stored.items()},
        lambda place: Parts.from_bytes(stored[place]),
        floor,
    )
    out = np.zeros(shape, objects.dtype)
    for b in blocks:
        numbers = objects.numbers.get(tuple(map(int, b.id.split("_"))))
        if numbers is not None:
            out[b.write.slices] = relabel(
                local_labels(probabilities[b.write.slices], threshold), numbers, objects.dtype
            )
    return out, objects


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    block=st.tuples(*[st.integers(1, 6)] * 3),
    density=st.sampled_from([0.03, 0.1, 0.3, 0.6]),
    seed=st.integers(0, 1000),
)
def test_labels_equal_skimage_on_the_whole_image(shape, block, density, seed):
    # skimage, too, numbers components by their first voxel in raster order
    rng = np.random.default_rng(seed)
    probabilities = np.where(rng.random(shape) < density, 200, 10).astype(np.uint8)
    labels, objects = blockwise(probabilities, 128, block, 0)
    expected = skimage_label(probabilities >= 128, connectivity=3)
    np.testing.assert_array_equal(labels, expected)
    for i in range(len(objects)):
        where = np.argwhere(expected == i + 1)
        assert objects.voxels[i] == len(where)
        assert objects.sums[i].tolist() == where.sum(axis=0).tolist()
        assert objects.low[i].tolist() == where.min(axis=0).tolist()
        assert objects.high[i].tolist() == (where.max(axis=0) + 1).tolist()
        assert objects.probability[i] == 200 * len(where)


def test_the_size_floor_counts_whole_objects_not_parts():
    probabilities = np.zeros((1, 1, 12), np.uint8)
    probabilities[0, 0, :6] = 255  # cut into parts of 2 voxels
    probabilities[0, 0, 8:10] = 255
    labels, objects = blockwise(probabilities, 1, (1, 1, 2), 6)
    assert labels[0, 0].tolist() == [1] * 6 + [0] * 6
    assert len(objects) == 1


def test_threshold_is_inclusive():
    assert local_labels(np.array([[[127, 128]]], np.uint8), 128).tolist() == [[[0, 1]]]


def test_thirteen_neighbours_come_after():
    assert len(FORWARD) == 13
    assert not set(FORWARD) & {tuple(-i for i in d) for d in FORWARD}


def test_ids_take_the_smallest_type():
    probabilities = np.zeros((1, 1, 600), np.uint8)
    probabilities[0, 0, ::2] = 255
    labels, objects = blockwise(probabilities, 128, (1, 1, 50), 0)
    assert len(objects) == 300
    assert labels.dtype == np.uint16
    assert blockwise(np.zeros((3, 3, 3), np.uint8), 1, (2, 2, 2), 0)[0].dtype == np.uint8


def test_a_snake_through_all_blocks_is_one_object():
    probabilities = np.zeros((8, 8, 8), np.uint8)
    for i in range(8):
        probabilities[i, i, i] = 255  # touches by corners only
        probabilities[i, 7 - i, i] = 255
    labels, objects = blockwise(probabilities, 255, (2, 3, 1), 0)
    expected = cc3d.connected_components(probabilities > 0, connectivity=26)
    assert len(objects) == expected.max()
    np.testing.assert_array_equal(labels > 0, expected > 0)
