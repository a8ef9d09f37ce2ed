"""Lazy arrays equal numpy, read late, and show what is being written."""

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_connectoscope.lazy import LazyArray, LivePyramid

DATA = np.arange(7 * 9 * 11, dtype=np.uint16).reshape(7, 9, 11)


def store_of(data, chunks=None):
    array = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "memory"}},
        create=True,
        shape=data.shape,
        dtype=data.dtype,
        chunk_layout=ts.ChunkLayout(chunk_shape=chunks or data.shape),
    ).result()
    array.write(data).result()
    return array


def test_what_has_gone_away_is_not_black(tmp_path):
    path = tmp_path / "a.zarr"
    kvstore = {"driver": "file", "path": str(path)}
    store = ts.open(
        {"driver": "zarr3", "kvstore": kvstore}, create=True, shape=DATA.shape, dtype=DATA.dtype
    ).result()
    seen = LazyArray(store)
    assert not np.asarray(seen[0]).any()  # empty
    path.rename(tmp_path / "b.zarr")
    with pytest.raises(OSError, match="No such file"):
        np.asarray(seen[0])


def slices(length):
    bound = st.none() | st.integers(-length - 2, length + 2)
    return st.builds(slice, bound, bound, st.none() | st.sampled_from([1, 2, 3, -1, -2]))


@settings(max_examples=60, deadline=None)
@given(key=st.tuples(*(slices(n) | st.integers(-n, n - 1) for n in DATA.shape)))
def test_indexing_equals_numpy(key):
    view = LazyArray(ts.array(DATA))[key]
    expected = DATA[key]
    assert view.shape == expected.shape
    assert view.ndim == expected.ndim
    np.testing.assert_array_equal(np.asarray(view), expected)


def test_as_napari_indexes_it():
    lazy = LazyArray(ts.array(DATA))
    view = lazy[:, 2:6, 3:9]
    assert isinstance(view, LazyArray)
    np.testing.assert_array_equal(np.asarray(view[4:5]), DATA[4:5, 2:6, 3:9])
    np.testing.assert_array_equal(np.asarray(lazy[..., 3]), DATA[..., 3])
    np.testing.assert_array_equal(lazy[[0, 2]], DATA[[0, 2]])
    assert lazy.dtype == np.uint16
    assert lazy.size == DATA.size


def test_too_large_is_refused_in_words():
    spec = {"driver": "zarr3", "kvstore": {"driver": "memory"}}
    huge = ts.open(spec, create=True, dtype=ts.uint8, shape=(5000, 5000, 5000)).result()
    with pytest.raises(ValueError, match="GB are too much"):
        np.asarray(LazyArray(huge))
    assert np.asarray(LazyArray(huge)[10:11, :10, :10]).shape == (1, 10, 10)


def test_growing_result_shows_at_any_zoom_and_then_the_stored_pyramid():
    fine = store_of(np.zeros((4, 64, 64), np.uint8), (2, 16, 16))
    coarse = store_of(np.zeros((4, 16, 16), np.uint8), (2, 16, 16))
    pyramid = LivePyramid([fine, coarse], live=True)
    shown = pyramid.arrays()[1]
    assert shown.shape == (4, 16, 16)
    fine[0:2, 16:32, 16:32].write(200).result()
    plane = np.asarray(shown[:, 0:16, 0:16][1:2])
    assert plane.max() == 200
    assert (plane[0, 4:8, 4:8] == 200).all()
    assert (plane[0, :4] == 0).all()
    coarse.write(np.full((4, 16, 16), 7, np.uint8)).result()
    pyramid.live = False
    assert (np.asarray(shown[1:2]) == 7).all()


def test_live_level_of_odd_shape_keeps_its_shape():
    fine, coarse = store_of(DATA), store_of(DATA[:, :5, :6].copy())
    pyramid = LivePyramid([fine, coarse], live=True)
    for key in (np.s_[:], np.s_[2:3, 1:5, 2:6], np.s_[-1, ::-1]):
        shown = pyramid.arrays()[1][key]
        assert np.asarray(shown).shape == shown.shape
