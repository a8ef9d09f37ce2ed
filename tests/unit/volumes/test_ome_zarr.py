"""OME-Zarr: what we write we read, what others write we read, damaged ones are refused in one line."""

from __future__ import annotations

import itertools
import json
import re
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.errors import UserError
from connectoscope.volumes import (
    ImageSpec,
    add_labels_group_entry,
    create_image,
    downsample,
    open_image_for_writing,
    open_volume,
    read_attributes,
    set_attributes,
)
from connectoscope.volumes.geometry import Box

DTYPES = st.sampled_from([np.dtype(t) for t in ("u1", "i2", "u2", "u4", "u8", "f4", "f8")])
SIDES = st.tuples(*[st.integers(1, 20)] * 3)
LENGTHS = st.floats(0.01, 1e4)
PLACES = st.floats(-1e6, 1e6)


def spec_of(**changes) -> ImageSpec:
    facts = {
        "shape": (5, 33, 34), "dtype": np.dtype("u1"), "scale": (40.0, 4.0, 4.0), "translation": (80.0, 0.0, -8.0),
        "unit": "nanometer", "chunks": (4, 16, 16), "factors": ((1, 1, 1), (1, 2, 2)), "name": "test",
    }  # fmt: skip
    return ImageSpec(**{**facts, **changes})


def filled(path: Path, spec: ImageSpec, seed: int = 0) -> np.ndarray:
    """Make an image of random voxels, with its pyramid; returns level 0 (axes as in the file)."""
    stores = create_image(path, spec)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, stores[0].shape).astype(spec.dtype)
    for factor, store in zip(spec.factors, stores, strict=True):
        store.write(downsample(pixels, factor, labels=spec.is_labels)).result()
    return pixels


@settings(max_examples=15, deadline=None)
@given(
    shape=SIDES, dtype=DTYPES, scale=st.tuples(*[LENGTHS] * 3), translation=st.tuples(*[PLACES] * 3), chunks=SIDES,
    sharded=st.booleans(), version=st.sampled_from(["0.4", "0.5"]), channels=st.integers(0, 3),
    times=st.sampled_from([None, 1, 2]), unit=st.sampled_from(["nanometer", "micrometer", None]),
)  # fmt: skip
def test_what_is_written_is_read(
    shape, dtype, scale, translation, chunks, sharded, version, channels, times, unit
) -> None:
    spec = ImageSpec(
        shape, dtype, scale, translation, unit, chunks, version=version, times=times,
        channels=tuple(f"name {i}" for i in range(channels)), factors=((1, 1, 1), (1, 2, 2), (2, 4, 4)),
        shards=tuple(2 * c for c in chunks) if sharded and version == "0.5" else None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pixels = filled(Path(folder) / "a.ome.zarr", spec)
        channel = channels - 1 if channels else None
        time = times - 1 if times else None
        volume = open_volume(Path(folder) / "a.ome.zarr", channel=channel, time=time)
        for index in (channel, time)[:: 1 if times is None else -1]:
            pixels = pixels if index is None else pixels[index]
        assert volume.format == f"OME-Zarr {version}"
        assert (volume.shape, volume.dtype, volume.unit, volume.axes) == (shape, dtype, unit, spec.axes)
        assert volume.channels == spec.channels
        assert volume.times == (times or 1)
        for k, (level, factor) in enumerate(zip(volume.levels, spec.factors, strict=True)):
            expected = downsample(pixels, factor, labels=False)
            np.testing.assert_array_equal(volume.read(Box.of(level.shape), k), expected)
            base = np.array(scale) if unit else np.ones(3)
            start = np.array(translation) * (1 if unit else 1 / np.array(scale))
            np.testing.assert_allclose(level.scale, base * factor)
            shift = (np.array(factor) - 1) / 2 * base
            np.testing.assert_allclose(level.translation, start + shift, rtol=1e-9, atol=1e-6)
            assert all(c <= n for c, n in zip(level.chunks, level.shape, strict=True))


@settings(max_examples=15, deadline=None)
@given(st.permutations("tczyx"), st.integers(2, 5), st.sampled_from([2, 3]), st.booleans())
def test_axes_in_any_order_written_by_zarr(order, count, zarr_format, big_endian) -> None:
    axes = "".join(order[:count]) + "".join(a for a in "yx" if a not in order[:count])
    shape = tuple({"t": 2, "c": 3, "z": 4, "y": 5, "x": 6}[a] for a in axes)
    pixels = np.arange(np.prod(shape), dtype=">u2" if big_endian and zarr_format == 2 else "u2").reshape(
        shape
    )
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
        chunks = tuple(min(n, 3) for n in shape)
        array = group.create_array("full", shape=shape, dtype=pixels.dtype, chunks=chunks)
        array[...] = pixels
        kinds = {"t": "time", "c": "channel"}
        steps = [{"type": "scale", "scale": [{"z": 3.0, "y": 2.0, "x": 1.0}.get(a, 1.0) for a in axes]}]
        ome = {
            "multiscales": [
                {
                    "axes": [
                        {"name": a, "type": kinds.get(a, "space")}
                        | ({} if a in kinds else {"unit": "micrometer"})
                        for a in axes
                    ],
                    "datasets": [{"path": "full", "coordinateTransformations": steps}],
                }
            ]
        }
        group.attrs.update({"ome": {"version": "0.5", **ome}} if zarr_format == 3 else ome)
        volume = open_volume(folder, channel=1 if "c" in axes else None, time=1 if "t" in axes else None)
        chosen = pixels[tuple(1 if a in "tc" else slice(None) for a in axes)]
        left = [a for a in axes if a in "zyx"]
        chosen = chosen.transpose([left.index(a) for a in "zyx" if a in left])
        chosen = chosen[None] if "z" not in left else chosen
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), chosen)
        assert volume.dtype == np.dtype("u2")
        assert volume.levels[0].scale == (3.0 if "z" in axes else 2.0, 2.0, 1.0)


def edited(path: Path, change) -> None:
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"]["ome"]["multiscales"][0])
    (path / "zarr.json").write_text(json.dumps(document))


def test_missing_translation_is_centred_and_said(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of())

    def drop(multiscale) -> None:
        for dataset in multiscale["datasets"]:
            del dataset["coordinateTransformations"][1]
        # A translation of the whole image comes on top of the datasets' own.
        multiscale["coordinateTransformations"] = [{"type": "translation", "translation": [10.0, 0.0, 0.0]}]

    edited(tmp_path / "a.zarr", drop)
    volume = open_volume(tmp_path / "a.zarr")
    assert volume.levels[0].translation == (10.0, 0.0, 0.0)
    assert volume.levels[1].translation == (10.0, 2.0, 2.0)
    assert any("translation" in w for w in volume.warnings)


def test_transformations_of_image_and_dataset_are_combined(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of())
    outer = [
        {"type": "scale", "scale": [2.0, 2.0, 2.0]},
        {"type": "translation", "translation": [1.0, 1.0, 1.0]},
    ]
    edited(tmp_path / "a.zarr", lambda m: m.update(coordinateTransformations=outer))
    volume = open_volume(tmp_path / "a.zarr")
    assert volume.levels[1].scale == (80.0, 16.0, 16.0)
    assert volume.levels[0].translation == (161.0, 1.0, -15.0)
    assert volume.warnings == ()


def test_units_may_differ_between_axes(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of())
    edited(tmp_path / "a.zarr", lambda m: m["axes"][0].update(unit="micrometer"))
    assert open_volume(tmp_path / "a.zarr").levels[0].scale == (40_000.0, 4.0, 4.0)


def test_voxel_size_overrides_every_level(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of(unit=None))
    assert open_volume(tmp_path / "a.zarr").unit is None
    with pytest.raises(UserError, match="--voxel-size"):
        open_volume(tmp_path / "a.zarr").voxel_size_nm()
    volume = open_volume(tmp_path / "a.zarr", voxel_size="50,5,5nm")
    assert volume.voxel_size_nm() == (50.0, 5.0, 5.0)
    assert volume.levels[1].scale == (50.0, 10.0, 10.0)
    assert volume.levels[0].translation == (100.0, 0.0, -10.0)
    np.testing.assert_allclose(volume.levels[1].translation, (100.0, 2.5, -7.5))


def test_labels_are_opened_by_path_and_listed_once(tmp_path: Path) -> None:
    for version in ("0.4", "0.5"):
        root = tmp_path / f"{version}.zarr"
        filled(root, spec_of(version=version))
        for name in ("b", "a", "b"):
            add_labels_group_entry(root, name)
        pixels = filled(root / "labels" / "a", spec_of(version=version, is_labels=True), seed=1)
        volume = open_volume(f"{root}::/labels/a")
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels)
        with pytest.raises(UserError, match="open one of them: a, b"):
            open_volume(root / "labels")


def test_attributes_of_ours_are_kept_beside_others(tmp_path: Path) -> None:
    for version in ("0.4", "0.5"):
        path = tmp_path / f"{version}.zarr"
        create_image(
            path, spec_of(version=version, attributes={"connectoscope": {"finished": False}, "other": 1})
        )
        assert any("unfinished" in w for w in open_volume(path).warnings)
        set_attributes(path, finished=True, seed=3)
        assert read_attributes(path) == {"finished": True, "seed": 3}
        assert open_volume(path).warnings == ()
        assert '"other": 1' in (path / ("zarr.json" if version == "0.5" else ".zattrs")).read_text()
        assert len(open_image_for_writing(path)) == 2
        assert not list(path.rglob("*.part"))


def test_only_our_own_images_are_overwritten(tmp_path: Path) -> None:
    create_image(tmp_path / "a.zarr", spec_of())
    with pytest.raises(UserError, match="exists"):
        create_image(tmp_path / "a.zarr", spec_of())
    assert len(create_image(tmp_path / "a.zarr", spec_of(), overwrite=True)) == 2
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "one.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="not made by connectoscope"):
        create_image(foreign, spec_of(), overwrite=True)
    assert (foreign / "one.jpg").exists()
    (tmp_path / "empty").mkdir()
    create_image(tmp_path / "empty", spec_of())
    with pytest.raises(UserError, match="cannot be written"):
        create_image(foreign / "one.jpg" / "a.zarr", spec_of())


def test_plain_array_has_unknown_voxel_size(tmp_path: Path) -> None:
    for zarr_format in (2, 3):
        path = tmp_path / str(zarr_format)
        array = zarr.create_array(str(path), shape=(3, 4, 5), dtype="f4", zarr_format=zarr_format)
        array[...] = np.arange(60).reshape(3, 4, 5)
        volume = open_volume(path)
        assert (volume.unit, volume.axes, volume.levels[0].scale) == (None, "zyx", (1.0, 1.0, 1.0))
        assert volume.read(Box((1, 2, 3), (2, 3, 4))).item() == 33.0


class RangeHandler(SimpleHTTPRequestHandler):
    """A static server as they are in the field: byte ranges (shards need them) and etags."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(403 if "bucket" in self.path else 404)
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            part, span = data, ""
            self.send_response(200)
        else:
            first, last = wanted.groups()
            start = int(first) if first else max(len(data) - int(last), 0)
            stop = min(int(last) + 1, len(data)) if first and last else len(data)
            part, span = data[start:stop], f"bytes {start}-{stop - 1}/{len(data)}"
            self.send_response(206)
        self.send_header("ETag", f'"{hash(data)}"')
        self.send_header("Content-Length", str(len(part)))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args) -> None:
        pass


def test_http(tmp_path: Path) -> None:
    pixels = filled(tmp_path / "a.ome.zarr", spec_of(shards=(4, 32, 32)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        volume = open_volume(f"{url}/a.ome.zarr/")
        assert (volume.source, volume.name) == (f"{url}/a.ome.zarr", "a")
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels)
        assert volume.levels[0].translation == (80.0, 0.0, -8.0)
        # Object stores that may not be listed answer 403 for a missing key, such as zarr.json beside zarr 2.
        old = filled(tmp_path / "bucket" / "old.zarr", spec_of(version="0.4"))
        np.testing.assert_array_equal(open_volume(f"{url}/bucket/old.zarr").read(Box.of(old.shape)), old)
        for folder in ("", "bucket/"):
            with pytest.raises(UserError, match="no zarr metadata"):
                open_volume(f"{url}/{folder}nothing.zarr")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_identity_tells_a_changed_volume(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of())
    before = open_volume(tmp_path / "a.zarr").identity()
    assert before == open_volume(tmp_path / "a.zarr").identity()
    open_image_for_writing(tmp_path / "a.zarr")[0][0, 0, 0].write(255).result()
    after = open_volume(tmp_path / "a.zarr").identity()
    assert {k for k in before if before[k] != after[k]} == {"chunks"}


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: cut_in_half(root / "zarr.json"), "damaged"),
        (lambda root: (root / "zarr.json").write_text("[]"), "damaged"),
        (lambda root: (root / "zarr.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
        (lambda root: cut_in_half(root / "0" / "zarr.json"), "missing or damaged"),
        (lambda root: (root / "1" / "zarr.json").unlink(), "missing or damaged"),
        (lambda root: edited(root, lambda m: m["axes"].pop()), "damaged"),
        (lambda root: edited(root, lambda m: m.pop("datasets")), "damaged"),
        (lambda root: edited(root, lambda m: m.update(axes=5)), "damaged"),
        (lambda root: edited(root, lambda m: m["axes"][0].update(name="q")), "damaged"),
        (
            lambda root: edited(root, lambda m: m["datasets"][0].update(coordinateTransformations=[{}])),
            "damaged",
        ),
        (lambda root: edited(root, lambda m: m["datasets"].reverse()), "not ordered"),
    ],
)
def test_damaged_metadata_is_one_helpful_line(tmp_path: Path, damage, said: str) -> None:
    filled(tmp_path / "a.zarr", spec_of())
    damage(tmp_path / "a.zarr")
    with pytest.raises(UserError, match=said) as caught:
        open_volume(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)
    assert "a.zarr" in str(caught.value)


def test_damaged_chunk_names_the_file(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of())
    cut_in_half(tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0")
    volume = open_volume(tmp_path / "a.zarr")
    with pytest.raises(UserError, match=r"a\.zarr: cannot read voxels"):
        volume.read(Box.of(volume.shape))


def test_groups_without_an_image(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "g"), mode="w")
    group.create_array("raw", shape=(2, 2, 2), dtype="u1")
    with pytest.raises(UserError, match="open one of: raw"):
        open_volume(tmp_path / "g")
    assert open_volume(f"{tmp_path / 'g'}::/raw").shape == (2, 2, 2)
    with pytest.raises(UserError, match="holds no volume"):
        open_volume(tmp_path)


def test_boxes_and_levels_outside_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", spec_of())
    volume = open_volume(tmp_path / "a.zarr")
    for box, level in itertools.product([Box((0, 0, 0), (6, 1, 1)), Box((-1, 0, 0), (1, 1, 1))], [0, 1]):
        with pytest.raises(UserError, match="not inside level"):
            volume.read(box, level)
    with pytest.raises(UserError, match="no level 2"):
        volume.read(Box((0, 0, 0), (1, 1, 1)), 2)


def test_channels_and_times_are_chosen_and_said(tmp_path: Path) -> None:
    pixels = filled(tmp_path / "a.zarr", spec_of(channels=("red", "7", "blue"), times=2))
    volume = open_volume(tmp_path / "a.zarr")
    assert len(volume.warnings) == 2
    assert "'red' is taken" in volume.warnings[0]
    whole = Box.of(volume.shape)
    for channel, index in ((0, 0), ("0", 0), ("7", 1), ("blue", 2), ("2", 2)):
        chosen = open_volume(tmp_path / "a.zarr", channel=channel, time=1)
        assert (chosen.channel, chosen.time, chosen.warnings) == (index, 1, ())
        np.testing.assert_array_equal(chosen.read(whole), pixels[1, index])
    with pytest.raises(UserError, match="no channel 'green'; its channels are 'red', '7', 'blue'"):
        open_volume(tmp_path / "a.zarr", channel="green")
    with pytest.raises(UserError, match="no time point 2"):
        open_volume(tmp_path / "a.zarr", time=2)


def test_levels_of_fewer_channels_are_refused_at_once(tmp_path: Path) -> None:
    """Else the finest level opens, and a coarser one fails when it is read."""
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, shape in (("0", (2, 4, 8, 8)), ("1", (1, 4, 4, 4))):
        group.create_array(name, shape=shape, dtype="u1", chunks=shape)
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"),
    ]
    levels = [
        {"path": name, "coordinateTransformations": [{"type": "scale", "scale": [1, 40, 4 * f, 4 * f]}]}
        for name, f in (("0", 1), ("1", 2))
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    with pytest.raises(UserError, match="different numbers of channels or times"):
        open_volume(path, channel=1)
