"""One contract for all formats: voxels, type, voxel size, unit and offset, as another program wrote them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from format_files import FORMATS, Given
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks import convert
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


TARGETS = ("a.ome.zarr", "b.ome.zarr", "a.n5", "a.precomputed", "a.h5", "a.ome.tif")


def as_written(source: str, folder: Path, target: str, **parameters: object):
    destination = folder / target
    version = "0.4" if target.startswith("b") else "0.5"
    task = convert.Convert(source=source, destination=str(destination), version=version, **parameters)
    convert.run(task, Context.local(folder / f"{target}.job"))
    assert not list(folder.glob("*.part"))
    return open_volume(destination)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_converts_to_every_other(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    dtype = np.dtype("u1") if "u1" in form.dtypes else np.dtype(form.dtypes.split()[-1])
    pixels = np.random.default_rng(0).integers(0, 100, (5, 11, 7)).astype(dtype)
    made = tmp_path / "made"
    made.mkdir()
    source = form.write(made, Given(pixels))
    size = {} if "scale" in form.keeps else {"voxel_size": "40,4,8nm"}
    before = open_volume(source, **size)
    for target in TARGETS:
        if dtype == "u8" and target == "a.ome.tif":
            with pytest.raises(UserError, match="OME-TIFF cannot hold uint64"):
                as_written(source, tmp_path, target)
            continue
        after = as_written(source, tmp_path, target, **size)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        np.testing.assert_array_equal(after.read(Box.of(after.shape)), before.read(Box.of(before.shape)))
        assert after.voxel_size_nm() == pytest.approx(before.voxel_size_nm(), rel=1e-6)
        places = [convert_length(v.levels[0].translation, v.unit, "nanometer") for v in (after, before)]
        assert places[0] == pytest.approx(places[1], rel=1e-6, abs=1e-6)
        if target != "a.precomputed":  # it knows only nanometres
            assert after.unit == before.unit


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_whatever_is_converted_comes_back(target: str, data: st.DataObject) -> None:
    """Shapes also 1-thick, all numbers, channels and times, boxes, units, offsets off the grid."""
    dtypes = {
        "a.n5": "u1 i1 u2 i4 u8 f8",
        "a.precomputed": "u1 i1 u2 u4 u8 f4",
        "a.ome.tif": "u1 i2 u4 f4 f8",
    }
    dtype = np.dtype(data.draw(st.sampled_from(dtypes.get(target, "u1 i1 u2 i8 u8 f2 f4 f8").split())))
    lead = data.draw(st.sampled_from([(), (2,), (2, 3)])) if target != "a.precomputed" else ()
    axes = {0: "zyx", 1: "czyx", 2: "tczyx"}[len(lead)]
    shape = data.draw(SIDES)
    pixels = np.random.default_rng(0).integers(0, 100, (*lead, *shape)).astype(dtype)
    scale = data.draw(SCALES)
    whole = target == "a.precomputed"
    place = data.draw(PLACES)
    offset = tuple((p if whole else p / 7) * s for p, s in zip(place, scale, strict=True))
    unit = data.draw(st.sampled_from(["nm", "um", "angstrom"]))
    with tempfile.TemporaryDirectory() as name, h5py.File(f"{name}/source.h5", "w") as file:
        made = file.create_dataset("raw", data=pixels)
        made.attrs.update({"axes": axes, "resolution": scale, "offset": offset, "units": unit})
        file.flush()
        after = as_written(f"{name}/source.h5", Path(name), target)
        before = open_volume(f"{name}/source.h5")
        assert "".join(after.axes).strip("tc") in ("zyx", "xyz", "yx")
        for k in np.ndindex(*lead):
            choice = dict(zip(("channel", "time"), k[::-1], strict=False))
            found = open_volume(f"{name}/{target}", **choice)
            np.testing.assert_array_equal(found.read(Box.of(shape)), pixels[k])
        assert after.voxel_size_nm() == pytest.approx(before.voxel_size_nm(), rel=1e-9)
        places = [convert_length(v.levels[0].translation, v.unit, "nanometer") for v in (after, before)]
        assert places[0] == pytest.approx(places[1], rel=1e-9, abs=1e-6)
