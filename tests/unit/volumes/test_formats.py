"""One contract for all formats: voxels, type, voxel size, unit and offset, as another program wrote them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from format_files import FORMATS, Given
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box, convert_length

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 19), st.integers(1, 19))
# Powers of two and a half survive float32 headers; offsets are whole voxels, as precomputed needs them.
SCALES = st.tuples(*[st.sampled_from([0.5, 3.25, 4.0, 8.0, 40.0, 1000.0])] * 3)
PLACES = st.tuples(*[st.integers(-1000, 1000)] * 3)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_what_was_written_is_read(name: str, data: st.DataObject) -> None:
    form = FORMATS[name]
    z, y, x = data.draw(SIDES)
    shape = (z, max(y, form.thinnest), max(x, form.thinnest))
    dtype = np.dtype(data.draw(st.sampled_from(form.dtypes.split())))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 100, shape).astype(dtype)
    scale, place = data.draw(SCALES), data.draw(PLACES)
    offset = tuple(p * s for p, s in zip(place, scale, strict=True))
    chunks = data.draw(st.tuples(*[st.sampled_from([4, 8, 16])] * 3))
    with tempfile.TemporaryDirectory() as folder:
        source = form.write(Path(folder), Given(pixels, scale, offset, chunks))  # type: ignore[arg-type]
        volume = open_volume(source)
        assert (volume.shape, volume.dtype) == (shape, dtype)
        found = volume.read(Box.of(shape))
        if form.keeps == "roughly":
            assert found.shape == shape
        else:
            np.testing.assert_array_equal(found, pixels)
            start = [data.draw(st.integers(0, n - 1)) for n in shape]
            box = Box(tuple(start), tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape)))  # type: ignore[arg-type] # noqa: B905
            np.testing.assert_array_equal(volume.read(box), pixels[box.slices])
        if "scale" not in form.keeps:
            assert volume.unit is None
            assert any("voxel size" in w for w in volume.warnings)
            return
        assert volume.voxel_size_nm() == pytest.approx(scale, rel=1e-6)
        wanted = offset if "offset" in form.keeps else (0, 0, 0)
        found = convert_length(volume.levels[0].translation, volume.unit, "nanometer")
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert all(level.array.domain.origin == (0, 0, 0) for level in volume.levels)
        assert len(volume.identity()["chunks"]) == 64
