"""TIFF and OME-TIFF: every way of storing pixels, what the files say of space, and damaged files."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.errors import ColourImage, UserError
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box
from connectoscope.volumes.tiff import read_tiff

NM = {"PhysicalSizeX": 4, "PhysicalSizeY": 5, "PhysicalSizeZ": 40} | {
    f"PhysicalSize{a}Unit": "nm" for a in "XYZ"
}
STORED = st.fixed_dictionaries(
    {},
    optional={
        "compression": st.sampled_from(["zlib", "lzw", "zstd", "packbits"]),
        "tile": st.sampled_from([(16, 16), (32, 16)]),
        "rowsperstrip": st.integers(1, 40),
        "byteorder": st.sampled_from(["<", ">"]),
        "bigtiff": st.booleans(),
    },
)


def noise(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 50), st.integers(1, 50)),
    dtype=st.sampled_from(["u1", "i2", "u2", "u4", "f4", "f8"]),
    stored=STORED,
    predictor=st.booleans(),
)
def test_pixels_however_they_are_stored(shape, dtype, stored, predictor) -> None:
    pixels = noise(shape, dtype)
    opened = {k: stored.pop(k) for k in ("byteorder", "bigtiff") if k in stored}
    if predictor and stored.get("compression") in ("zlib", "lzw", "zstd") and dtype != "f8":
        stored["predictor"] = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ome.tif"
        with tifffile.TiffWriter(path, ome=True, **opened) as tif:
            tif.write(pixels, photometric="minisblack", metadata={"axes": "ZYX", **NM}, **stored)
        volume = open_volume(path)
        assert (volume.format, volume.unit, volume.dtype) == ("OME-TIFF", "nanometer", np.dtype(dtype))
        assert volume.levels[0].scale == (40.0, 5.0, 4.0) or shape[0] == 1
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels)
        middle = Box(tuple(n // 3 for n in shape), tuple(n // 3 + (n + 1) // 2 for n in shape))
        np.testing.assert_array_equal(volume.read(middle), pixels[middle.slices])


def test_several_threads_read_one_file(tmp_path: Path) -> None:
    pixels = noise((8, 64, 64))
    tifffile.imwrite(tmp_path / "a.tif", pixels, compression="zlib", metadata={"axes": "ZYX"})
    volume = open_volume(tmp_path / "a.tif")
    boxes = [Box((z, 0, 0), (z + 1, 64, 64)) for z in range(8)] * 4
    with ThreadPoolExecutor(8) as pool:
        for box, got in zip(boxes, pool.map(volume.read, boxes), strict=True):
            np.testing.assert_array_equal(got, pixels[box.slices])


def test_channels_times_and_their_names(tmp_path: Path) -> None:
    pixels = noise((2, 3, 4, 5, 6), "u2")
    metadata = {"axes": "TCZYX", "Channel": {"Name": ["nuclei", "walls", "noise"]}, **NM}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="minisblack", metadata=metadata)
    volume = open_volume(tmp_path / "a.ome.tif", channel="walls", time=1)
    assert (volume.channels, volume.channel, volume.times) == (("nuclei", "walls", "noise"), 1, 2)
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels[1, 1])


def test_pyramid_in_subifds(tmp_path: Path) -> None:
    pixels = noise((3, 64, 64))
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        options = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
        tif.write(pixels, subifds=2, metadata={"axes": "ZYX", **NM}, **options)
        tif.write(pixels[:, ::2, ::2], subfiletype=1, **options)
        tif.write(pixels[:, ::4, ::4], subfiletype=1, **options)
    volume = open_volume(tmp_path / "a.ome.tif")
    assert [level.shape for level in volume.levels] == [(3, 64, 64), (3, 32, 32), (3, 16, 16)]
    assert volume.levels[2].scale == (40.0, 20.0, 16.0)
    assert volume.levels[2].translation == (0.0, 7.5, 6.0)
    assert any("translation" in w for w in volume.warnings)
    np.testing.assert_array_equal(volume.read(Box.of((3, 16, 16)), 2), pixels[:, ::4, ::4])


def test_imagej_spacing(tmp_path: Path) -> None:
    pixels = noise((3, 20, 20), "u2")
    for unit, expected in (("nm", "nanometer"), ("\\u00B5m", "micrometer")):
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, imagej=True, resolution=(0.25, 0.2),
            metadata={"axes": "ZYX", "spacing": 40.0, "unit": unit},
        )  # fmt: skip
        volume = open_volume(tmp_path / "a.tif")
        assert (volume.format, volume.unit) == ("ImageJ TIFF", expected)
        assert volume.levels[0].scale == pytest.approx((40, 5, 4))
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels)


def test_unnamed_first_axis_is_z_and_said(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise((4, 20, 20)), photometric="minisblack")
    volume = open_volume(tmp_path / "a.tif")
    assert (volume.axes, volume.shape, volume.unit) == ("zyx", (4, 20, 20), None)
    assert any("first axis" in w for w in volume.warnings)
    tifffile.imwrite(tmp_path / "b.tif", noise((2, 2, 20, 20)), photometric="minisblack")
    with pytest.raises(UserError, match="named axes"):
        open_volume(tmp_path / "b.tif")


def test_section_becomes_a_volume(tmp_path: Path) -> None:
    metadata = {"axes": "YX", **{k: v for k, v in NM.items() if "Z" not in k}}
    tifffile.imwrite(tmp_path / "a.ome.tif", noise((20, 30)), photometric="minisblack", metadata=metadata)
    volume = open_volume(tmp_path / "a.ome.tif")
    assert (volume.shape, volume.levels[0].scale) == ((1, 20, 30), (5.0, 5.0, 4.0))
    assert any("thickness" in w for w in volume.warnings)


def test_largest_series_or_the_named_one(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(noise((2, 8, 8)), photometric="minisblack", metadata={"axes": "ZYX"})
        tif.write(noise((4, 16, 16)), photometric="minisblack", metadata={"axes": "ZYX", **NM})
    volume = open_volume(tmp_path / "a.ome.tif")
    assert (volume.shape, volume.unit) == ((4, 16, 16), "nanometer")
    assert any("2 images" in w for w in volume.warnings)
    first = open_volume(f"{tmp_path / 'a.ome.tif'}::/0")
    assert (first.shape, first.unit) == ((2, 8, 8), None)
    with pytest.raises(UserError, match="0 to 1"):
        open_volume(f"{tmp_path / 'a.ome.tif'}::/2")


def test_colour_is_refused_unless_a_channel_is_picked(tmp_path: Path) -> None:
    pixels = noise((20, 30, 3))
    for planar in ("contig", "separate"):
        stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
        tifffile.imwrite(
            tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression="zlib"
        )
        with pytest.raises(ColourImage, match="colour image") as caught:
            open_volume(tmp_path / "a.tif")
        assert "--channel" in str(caught.value)
        assert (caught.value.exit_code, caught.value.choices) == (
            2,
            (("0", "red"), ("1", "green"), ("2", "blue")),
        )
        green = open_volume(tmp_path / "a.tif", channel="green")
        np.testing.assert_array_equal(green.read(Box.of(green.shape))[0], pixels[:, :, 1])


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, 0.99])
def test_truncated_file_is_one_helpful_line(tmp_path: Path, compression, kept: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64)).astype("u1")
    for name, metadata in (("a.ome.tif", {"axes": "ZYX", **NM}), ("b.tif", {"axes": "ZYX"})):
        path = tmp_path / name
        tifffile.imwrite(path, pixels, compression=compression, photometric="minisblack", metadata=metadata)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
            open_volume(path)
        assert "\n" not in str(caught.value)


def test_damaged_plane_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, noise((3, 64, 64)), compression="zlib", photometric="minisblack", metadata={"axes": "ZYX"}
    )
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[1].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.ome\.tif: cannot read voxels"):
        open_volume(path).read(Box((0, 0, 0), (3, 64, 64)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1), (1, 1, 1, 1), (1, 1, 9), (1, 7, 9), (9, 1, 9)])
def test_axes_of_length_one(tmp_path: Path, shape) -> None:
    pixels = noise(shape)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    volume = open_volume(tmp_path / "a.tif")
    expected = pixels.reshape((1, 1, *shape)[-3:])
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), expected)


SHAPES, SIZES = ((2, 12, 10), (1, 25, 10)), (4, 8)  # of the two images of a set; the second is the larger
SET = [noise(shape) + np.uint8(k * 100) for k, shape in enumerate(SHAPES)]


def write_set(folder: Path, rooted: bool = True, **stored) -> list[Path]:
    """Two images, each in a file of its own that carries the XML of both; the second file is big-endian."""
    images = ""
    for k, (z, y, x) in enumerate(SHAPES):
        sizes = "".join(
            f'PhysicalSize{a}="{s}" PhysicalSize{a}Unit="nm" '
            for a, s in zip("ZYX", (40, SIZES[k], SIZES[k]), strict=True)
        )
        images += (
            f'<Image ID="Image:{k}"><Pixels ID="Pixels:{k}" DimensionOrder="XYZCT" Type="uint16" SizeX="{x}" SizeY="{y}" '
            f'SizeZ="{z}" SizeC="1" SizeT="1" {sizes}><Channel ID="Channel:{k}:0" Name="c{k}" SamplesPerPixel="1"/>'
            f'<TiffData IFD="0" PlaneCount="{z}"><UUID FileName="p{k}.ome.tif">urn:uuid:{k}</UUID></TiffData></Pixels>'
            "</Image>"
        )
    paths = [folder / f"p{k}.ome.tif" for k in range(2)]
    for k, path in enumerate(paths):
        uuid = f'UUID="urn:uuid:{k}"' if rooted else ""
        xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {uuid}>{images}</OME>'
        with tifffile.TiffWriter(path, byteorder="<>"[k]) as tif:
            tif.write(SET[k].astype("u2"), description=xml, metadata=None, photometric="minisblack", **stored)
    return paths


def is_image(volume, k: int) -> None:
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), SET[k])
    assert (volume.levels[0].scale, volume.unit) == ((40.0, SIZES[k], SIZES[k]), "nanometer")


@pytest.mark.parametrize("rooted", [True, False])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_images_of_a_set_come_from_their_own_files(tmp_path: Path, compression, rooted: bool) -> None:
    paths = write_set(tmp_path, rooted, compression=compression)
    for path in paths:
        is_image(open_volume(path), 1)  # the larger
        for k in range(2):
            is_image(open_volume(f"{path}::/{k}"), k)


def test_a_file_without_the_others_of_its_set(tmp_path: Path) -> None:
    first, second = write_set(tmp_path)
    first.unlink()
    is_image(open_volume(second), 1)
    assert read_tiff(second, "", "p1").channels == ("c1",)
    is_image(open_volume(second.rename(tmp_path / "renamed.ome.tif")), 1)


def test_the_other_file_of_a_set_changes_the_stamp_and_is_named_when_cut_short(tmp_path: Path) -> None:
    for compression in (None, "zlib"):
        first, second = write_set(tmp_path, compression=compression)
        stamps = [open_volume(f"{first}::/{k}").stamp for k in range(2)]
        os.utime(second, (1, 1))
        again = [open_volume(f"{first}::/{k}").stamp for k in range(2)]
        assert (stamps[0] == again[0], stamps[1] == again[1]) == (True, False)
        second.write_bytes(second.read_bytes()[:-10])  # pixels come last
        with pytest.raises(UserError, match=r"p1\.ome\.tif is incomplete"):
            open_volume(first)


def test_images_that_the_xml_does_not_tell_apart_have_no_voxel_size(tmp_path: Path) -> None:
    """Without a UUID of its own, a renamed file may be any image of its set."""
    first, second = write_set(tmp_path, rooted=False)
    first.unlink()
    volume = open_volume(second.rename(tmp_path / "renamed.ome.tif"))
    assert (volume.unit, volume.levels[0].scale) == (None, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), SET[1])


def test_coarser_levels_in_many_files(tmp_path: Path) -> None:
    """Also where a plane would end in its file just where the next begins in another."""
    pixels = noise((2, 32, 32))
    coarse = pixels[:, ::2, ::2]
    data = "".join(
        f'<TiffData IFD="0" FirstZ="{k}" PlaneCount="1"><UUID FileName="s{k}.ome.tif">urn:uuid:{k}</UUID></TiffData>'
        for k in range(2)
    )
    for k in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{k}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="32" SizeY="32" SizeZ="2" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image>{" " * k * coarse[0].size}</OME>'
        )
        with tifffile.TiffWriter(tmp_path / f"s{k}.ome.tif") as tif:
            tif.write(pixels[k], subifds=1, description=xml, metadata=None, photometric="minisblack")
            tif.write(coarse[k], subfiletype=1, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "s0.ome.tif") as tif:
        assert tif.series[0].levels[1].dataoffset is not None  # one stretch, tifffile thinks
    volume = open_volume(tmp_path / "s0.ome.tif")
    np.testing.assert_array_equal(volume.read(Box.of(pixels.shape)), pixels)
    np.testing.assert_array_equal(volume.read(Box.of(coarse.shape), 1), coarse)
