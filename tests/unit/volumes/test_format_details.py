"""What single formats have of their own: conventions of their programs, and what they leave open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import hdf5plugin
import imagecodecs
import mrcfile
import nibabel
import nrrd
import numpy as np
import pytest
import tensorstore as ts
import tifffile
from format_files import FORMATS, Given, imaris_channel

from connectoscope.errors import Unreadable, UserError
from connectoscope.volumes import open_volume, raw
from connectoscope.volumes.framing import FileImage, FileLevel, frame
from connectoscope.volumes.geometry import Box

PIXELS = np.random.default_rng(0).integers(0, 100, (4, 5, 6)).astype("u1")


def everything(volume, level: int = 0) -> np.ndarray:
    return volume.read(Box.of(volume.levels[level].shape), level)


# MRC


@pytest.fixture
def mrc_path(tmp_path: Path) -> Path:
    return Path(FORMATS["MRC"].write(tmp_path, Given(PIXELS.astype("i1"))))


def test_mrc_axes_follow_the_header(mrc_path: Path) -> None:
    with mrcfile.open(mrc_path, "r+") as file:
        file.header.mapc, file.header.mapr, file.header.maps = 3, 2, 1  # columns run along z
    volume = open_volume(mrc_path)
    np.testing.assert_array_equal(everything(volume), PIXELS.transpose(2, 1, 0))
    assert volume.axes == "xyz"


def test_mrc_of_imod_holds_unsigned_bytes(mrc_path: Path) -> None:
    data = bytearray(mrc_path.read_bytes())
    data[152:160] = np.array([1146047817, 0], "<i4").tobytes()
    data[1024] = 200
    mrc_path.write_bytes(data)
    volume = open_volume(mrc_path)
    assert (volume.dtype, everything(volume)[0, 0, 0]) == (np.uint8, 200)


def test_old_mrc_without_a_mark_is_known_by_its_name(mrc_path: Path) -> None:
    data = bytearray(mrc_path.read_bytes())
    data[208:216] = bytes(8)
    mrc_path.write_bytes(data)
    np.testing.assert_array_equal(everything(open_volume(mrc_path)), PIXELS)
    other = mrc_path.rename(mrc_path.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"readable are OME-Zarr.*MRC"):
        open_volume(other)


def test_mrc_without_a_voxel_size_and_cut_short(mrc_path: Path) -> None:
    with mrcfile.open(mrc_path, "r+") as file:
        file.voxel_size = 0
    assert open_volume(mrc_path).unit is None
    mrc_path.write_bytes(mrc_path.read_bytes()[:-1])
    with pytest.raises(UserError, match="incomplete: the file ends before its voxels do"):
        open_volume(mrc_path)


def test_the_place_of_voxels_of_unknown_size_is_kept_where_the_size_is_given(mrc_path: Path) -> None:
    with mrcfile.open(mrc_path, "r+") as file:
        file.voxel_size = 0
        file.header.origin = (100, 200, 300)  # x, y, z in ångström
    assert open_volume(mrc_path).levels[0].translation == (0, 0, 0)
    volume = open_volume(mrc_path, voxel_size="40,4,4nm")
    assert volume.levels[0].translation == pytest.approx((30, 20, 10))


def test_stated_places_of_unknown_size_are_not_called_missing() -> None:
    """Left out, since nobody says how large a voxel is; where there is no unit either they are in voxels."""
    fine, coarse = (ts.array(np.zeros(shape, "u1")) for shape in ((4, 8, 8), (4, 4, 4)))
    for unit, place in (("nanometer", (0, 0, 0)), (None, (0, 10, 10))):
        levels = (FileLevel(fine, None, (0, 10, 10)), FileLevel(coarse, None, (0, 10.5, 10.5)))
        image = FileImage("a.n5", "a", "N5", "zyx", levels, unit)
        volume = frame(image, channel=None, time=None, voxel_size=None)
        assert volume.levels[0].translation == place
        assert not any("no translation" in text for text in volume.warnings)


def test_n5_levels_do_not_inherit_the_voxel_size_of_the_first(tmp_path: Path) -> None:
    """A transform of the group, and levels with their factors alone."""
    transform = {"axes": ["z", "y", "x"], "scale": [40, 4, 4], "units": ["nm"] * 3, "translate": [0, 0, 0]}
    root = zarr_n5(tmp_path / "a.n5", {"transform": transform, "multiScale": True})
    volume = open_volume(root)
    assert [level.shape for level in volume.levels] == [(8, 16, 16), (8, 8, 8)]
    assert [level.scale for level in volume.levels] == [(40, 4, 4), (40, 8, 8)]


def zarr_n5(root: Path, attributes: dict) -> Path:
    root.mkdir()
    (root / "attributes.json").write_text(json.dumps({"n5": "2.0.0", **attributes}))
    for name, shape, factor in (("s0", (8, 16, 16), (1, 1, 1)), ("s1", (8, 8, 8), (2, 2, 1))):
        spec = {
            "dimensions": shape[::-1],
            "blockSize": shape[::-1],
            "dataType": "uint8",
            "compression": {"type": "raw"},
        }
        store = {"driver": "n5", "kvstore": {"driver": "file", "path": str(root / name)}, "metadata": spec}
        ts.open(store, create=True).result()[...] = 1
        place = root / name / "attributes.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), "downsamplingFactors": factor}))
    return root


def test_mrc_stack_of_volumes_has_times(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.stack([PIXELS.astype("i2"), PIXELS.astype("i2") + 1]))
    volume = open_volume(tmp_path / "a.mrc", time=1)
    assert (volume.times, volume.axes) == (2, "tzyx")
    np.testing.assert_array_equal(everything(volume), PIXELS + 1)


# NIfTI and NRRD


@pytest.mark.parametrize(
    ("affine", "axes", "said"),
    [
        ([[0, 0, 5.0, 7], [3, 0, 0, 8], [0, 4, 0, 9]], "xzy", ""),
        ([[-3, 0, 0, 7], [0, 4, 0, 8], [0, 0, 5, 9]], "zyx", "x runs against the world axis"),
        ([[3, 1, 0, 7], [-1, 4, 0, 8], [0, 0, 5, 9]], "zyx", "oblique"),
    ],
)
def test_nifti_affine(tmp_path: Path, affine: list[list[float]], axes: str, said: str) -> None:
    image = nibabel.Nifti1Image(PIXELS.T, np.array([*affine, [0, 0, 0, 1]]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert (volume.axes, volume.unit) == (axes, "millimeter")
    assert said in " ".join(volume.warnings)
    assert bool(said) == bool(volume.warnings)
    if axes == "xzy":  # the file's fastest axis runs along y, then z, then x
        assert volume.levels[0].scale == pytest.approx((4, 3, 5))
        assert volume.levels[0].translation == pytest.approx((9, 8, 7))
        np.testing.assert_array_equal(everything(volume), PIXELS.transpose(1, 2, 0))
    elif "runs" in said:
        assert volume.levels[0].translation == pytest.approx((9, 8, 0))


def test_nifti_times_slope_and_unknown_unit(tmp_path: Path) -> None:
    data = np.stack([PIXELS.T, PIXELS.T + 1], axis=-1).astype("i2")
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    for ending in (".nii", ".nii.gz"):
        nibabel.save(image, tmp_path / f"a{ending}")
        with (tmp_path / "a.nii").open("r+b") as file:  # nibabel rescales what it saves: state it by hand
            file.seek(112)
            file.write(np.array([0.5, 10], "<f4").tobytes())
    stored = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj.get_unscaled())
    volume = open_volume(tmp_path / "a.nii", time=1)
    assert (volume.dtype, volume.unit, volume.times) == (np.float32, None, 2)
    np.testing.assert_allclose(everything(volume), stored[..., 1].T * 0.5 + 10)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_folder_for_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel.save(nibabel.Nifti1Image(PIXELS.T, np.eye(4)), tmp_path / "a.nii.gz")
    volume = open_volume(tmp_path / "a.nii.gz")
    monkeypatch.setattr(raw.tempfile, "TemporaryFile", lambda: Path("/dev/full").open("r+b"))  # noqa: SIM115
    with pytest.raises(Unreadable, match=r"folder for temporary files, .* is full: set TMPDIR"):
        everything(volume)


def test_nifti_pair_is_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(PIXELS.T, np.eye(4)), tmp_path / "a.hdr")
    with pytest.raises(UserError, match=r"pair of files.*save it as one \.nii"):
        open_volume(tmp_path / "a.hdr")


def test_nrrd_with_its_data_beside_it(tmp_path: Path) -> None:
    header = {"spacings": [8.0, 4.0, 40.0], "units": ["nm"] * 3}
    for encoding in ("raw", "gzip"):
        nrrd.write(str(tmp_path / "a.nhdr"), PIXELS, {**header, "encoding": encoding}, index_order="C")
        volume = open_volume(tmp_path / "a.nhdr")
        np.testing.assert_array_equal(everything(volume), PIXELS)
        assert volume.voxel_size_nm() == (40.0, 4.0, 8.0)
    for data in tmp_path.glob("a.raw*"):
        data.unlink()
    with pytest.raises(UserError, match="put it beside the header"):
        open_volume(tmp_path / "a.nhdr")


def test_nrrd_of_text_and_with_channels(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), PIXELS, {"encoding": "text"})
    with pytest.raises(UserError, match="save it as raw or gzip"):
        open_volume(tmp_path / "a.nrrd")
    both = np.stack([PIXELS, PIXELS + 1], axis=-1)  # samples of a voxel lie together
    header = {
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.array([[np.nan] * 3, [8, 0, 0], [0, 4, 0], [0, 0, 40.0]]),
        "space units": ["nm"] * 3, "space": "left-posterior-superior",
    }  # fmt: skip
    nrrd.write(str(tmp_path / "b.nrrd"), both, header, index_order="C")
    volume = open_volume(tmp_path / "b.nrrd", channel=1)
    assert (volume.axes, volume.voxel_size_nm()) == ("zyxc", (40, 4, 8))
    np.testing.assert_array_equal(everything(volume), PIXELS + 1)


# Folders of images


def test_missing_sections_are_named(tmp_path: Path) -> None:
    for k in (8, 9, 10, 11, 14, 15, 17):
        (tmp_path / f"img_w2_{k}.png").write_bytes(imagecodecs.png_encode(np.full((3, 4), k, "u1")))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "overview.jpg").write_bytes(imagecodecs.jpeg_encode(PIXELS[0]))
    volume = open_volume(tmp_path)
    assert everything(volume)[:, 0, 0].tolist() == [8, 9, 10, 11, 14, 15, 17]
    said = " ".join(volume.warnings)
    assert "3 sections are missing (12 to 13, 16)" in said
    assert "also holds 1 JPEG images; the PNG images are taken" in said


def test_every_second_number_is_no_gap(tmp_path: Path) -> None:
    for k in (0, 2, 4, 10):
        (tmp_path / f"{k:03d}.png").write_bytes(imagecodecs.png_encode(PIXELS[0]))
    assert "2 sections are missing (6 to 8)" in " ".join(open_volume(tmp_path).warnings)


def test_sections_that_differ_are_named(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(imagecodecs.png_encode(PIXELS[0, : 5 - (k == 2)]))
    volume = open_volume(tmp_path)
    volume.read(Box((0, 0, 0), (2, 5, 6)))
    with pytest.raises(UserError, match=r"2\.png is 4 × 6 uint8, the first section 5 × 6 uint8"):
        everything(volume)
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0\.png is damaged or not an image"):
        open_volume(tmp_path)


def test_a_single_image_and_colour(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(PIXELS[0]))
    assert open_volume(tmp_path / "a.png").shape == (1, 5, 6)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.stack([PIXELS[0]] * 3, axis=-1)))
    with pytest.raises(UserError, match="colour image"):
        open_volume(tmp_path / "a.png")
    assert open_volume(tmp_path / "a.png", channel="green").shape == (1, 5, 6)


def test_colours_in_separate_planes(tmp_path: Path) -> None:
    colours = np.stack([PIXELS[0], PIXELS[1], PIXELS[2]])
    for k in range(2):
        tifffile.imwrite(tmp_path / f"{k}.tif", colours, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(everything(open_volume(tmp_path, channel="green"))[1], PIXELS[1])


def test_a_stack_in_a_folder_is_no_section(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="minisblack")
    with pytest.raises(UserError, match=r"volumes, to be opened one by one: a\.tif holds 4 images"):
        open_volume(tmp_path)


# BigDataViewer


def test_bigdataviewer_levels_channels_and_times(tmp_path: Path) -> None:
    path = Path(FORMATS["BigDataViewer HDF5"].write(tmp_path, Given(PIXELS.astype("u2"))))
    data = path.with_suffix(".h5")
    with h5py.File(data, "r+") as file:
        del file["s00/resolutions"]
        file["s00/resolutions"] = [[1.0, 1, 1], [2, 2, 1]]
        for time in range(2):
            for setup in range(2):
                for level, step in enumerate((1, 2)):
                    place = f"t0000{time}/s0{setup}/{level}/cells"
                    if place in file:
                        del file[place]
                    file[place] = PIXELS[:, ::step, ::step].astype("i2") - 200 * time + setup
        file["s01/resolutions"] = file["s00/resolutions"][...]
    with pytest.raises(UserError, match=r"several places; name one, as a\.h5::s00: s00, s01"):
        open_volume(data)  # the XML knows nothing of the second setup
    text = path.read_text()
    setup = text[text.index("<ViewSetup>") : text.index("</ViewSetups>")]
    place = text[text.index("<ViewRegistration ") : text.index("</ViewRegistrations>")]
    text = text.replace(setup, setup + setup.replace("<id>0", "<id>1").replace("one", "two"))
    path.write_text(text.replace(place, place + place.replace('setup="0"', 'setup="1"')))
    volume = open_volume(path, channel="two", time=1)
    assert (volume.channels, volume.times, volume.format) == (("one", "two"), 2, "BigDataViewer HDF5")
    # What HDF5 stores as negative is above 32767.
    np.testing.assert_array_equal(everything(volume), PIXELS.astype("i2").__sub__(199).view("u2"))
    assert volume.levels[1].scale == (40.0, 8.0, 16.0)
    assert volume.levels[1].translation == (80.0, -10.0, 20.0)
    assert open_volume(f"{data}::s01").channels == ("two",)
    assert open_volume(f"{data}::/t00000/s00/0/cells").dtype == np.int16
    with pytest.raises(UserError, match="no view setup 's07'"):
        open_volume(f"{data}::s07")
    data.unlink()
    with pytest.raises(UserError, match="put it beside the XML"):
        open_volume(path)
    path.write_text(path.read_text().replace("UTF-8", "WTF-8"))
    with pytest.raises(UserError, match="is damaged"):
        open_volume(path)


# Imaris, and HDF5 filters


def test_imaris_levels_channels_and_times(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60000, (4, 15, 31)).astype("u2")
    path = Path(FORMATS["Imaris"].write(tmp_path, Given(pixels)))
    with h5py.File(path, "r+") as file:
        del file["DataSet"]
        for level, step in ((0, 1), (1, 2), (10, 4)):
            for time in range(11):
                for channel in range(2):
                    some = (pixels[:, :14, :28] if level else pixels)[:, ::step, ::step] + 10 * time + channel
                    place = f"ResolutionLevel {level}/TimePoint {time}/Channel {channel}"
                    imaris_channel(file, place, some, (4, 8, 8))
    volume = open_volume(path, channel=1, time=10)
    assert (volume.channels, volume.times, volume.format) == (("one", "channel 1"), 11, "Imaris")
    np.testing.assert_array_equal(everything(volume), pixels + 101)
    coarse = volume.levels[1]
    np.testing.assert_array_equal(everything(volume, 1), pixels[:, :14:2, :28:2] + 101)
    assert [level.scale for level in volume.levels] == [(40, 4, 8), (40, 8, 16), (40, 16, 32)]
    assert coarse.translation == (80, -10, 20)
    one = open_volume(f"{path}::/DataSet/ResolutionLevel 1/TimePoint 3/Channel 0/Data")
    assert one.shape[1] % 8 == 0  # as it is stored, filled up


def test_imaris_channels_that_differ_in_shape_are_opened_by_name(tmp_path: Path) -> None:
    path = Path(FORMATS["Imaris"].write(tmp_path, Given(PIXELS)))
    with h5py.File(path, "r+") as file:
        imaris_channel(file, "ResolutionLevel 0/TimePoint 0/Channel 1", PIXELS[:, :3], (4, 8, 8))
    with pytest.raises(UserError, match=r"differ in shape; name one, as a\.ims::/DataSet/ResolutionLevel 0"):
        open_volume(path)


def test_imaris_without_its_extent_asks_for_the_voxel_size(tmp_path: Path) -> None:
    path = Path(FORMATS["Imaris"].write(tmp_path, Given(PIXELS.astype("u1"))))
    with h5py.File(path, "r+") as file:
        file["DataSetInfo/Image"].attrs["ExtMax2"] = file["DataSetInfo/Image"].attrs["ExtMin2"]
    assert open_volume(path).unit is None
    assert open_volume(path, voxel_size="5,2,2um").levels[0].scale == (5, 2, 2)


@pytest.mark.parametrize("filter", [hdf5plugin.Bitshuffle(), hdf5plugin.Blosc(), hdf5plugin.Zstd()])
def test_hdf5_as_beamlines_compress_it(tmp_path: Path, filter: hdf5plugin.Bitshuffle) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=PIXELS, chunks=(2, 5, 6), **filter)
    np.testing.assert_array_equal(everything(open_volume(tmp_path / "a.h5")), PIXELS)


# N5 and precomputed


def test_n5_levels_and_single_datasets(tmp_path: Path) -> None:
    path = Path(FORMATS["N5"].write(tmp_path, Given(PIXELS)))
    shutil.copytree(path / "s0", path / "s1")
    coarse = json.loads((path / "s1" / "attributes.json").read_text())
    (path / "s1" / "attributes.json").write_text(
        json.dumps({**coarse, "dimensions": [3, 3, 4], "downsamplingFactors": [2, 2, 1]})
    )
    volume = open_volume(path)
    assert volume.warnings == ()
    assert [level.scale for level in volume.levels] == [(40, 4, 8), (40, 8, 16)]
    assert volume.levels[1].translation == (80.0, -10.0, 20.0)
    (path / "s1" / "attributes.json").write_text(json.dumps({**coarse, "dimensions": [3, 3, 4]}))
    assert open_volume(path).levels[1].scale == (40, 8, 16)  # by the shapes, and said so
    assert "translation" in str(open_volume(path).warnings)
    group = json.loads((path / "attributes.json").read_text())
    (path / "attributes.json").write_text(json.dumps({**group, "scales": [[1, 1, 1], [2, 2, 1]]}))
    assert (open_volume(path).levels[1].translation, open_volume(path).warnings) == ((80, -10, 20), ())
    single = open_volume(f"{path}::s0")
    assert (single.unit, single.shape) == (None, PIXELS.shape)
    (tmp_path / "attributes.json").write_text('{"n5": "2.0.0"}')
    with pytest.raises(UserError, match=r"N5 group without a volume \(s0\); open one of: a\.n5"):
        open_volume(tmp_path)


def test_n5_in_the_ways_of_its_programs(tmp_path: Path) -> None:
    path = Path(FORMATS["N5"].write(tmp_path, Given(PIXELS)))
    (path / "attributes.json").write_text('{"n5": "2.0.0"}')
    attributes = path / "s0" / "attributes.json"
    plain = json.loads(attributes.read_text())
    cosem = {
        "axes": ["z", "y", "x"],
        "scale": [40, 4, 8],
        "translate": [1, 2, 3],
        "units": ["nm", "nm", "nm"],
    }
    for more, place in (
        ({"transform": cosem}, (1, 2, 3)),
        ({"resolution": [8, 4, 40], "offset": [3, 2, 1]}, (1, 2, 3)),
        ({"resolution": [8, 4, 40], "units": ["nm"] * 3, "axes": ["x", "y", "z"]}, (0, 0, 0)),
    ):
        attributes.write_text(json.dumps(plain | more))
        volume = open_volume(path)
        assert (volume.voxel_size_nm(), volume.levels[0].translation) == ((40, 4, 8), place)
    attributes.write_text(json.dumps(plain | {"axes": ["z", "y", "x"]}))
    np.testing.assert_array_equal(everything(open_volume(path)), PIXELS.T)


def test_precomputed_levels_cover_the_same_space(tmp_path: Path) -> None:
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{tmp_path}/a/"},
        "multiscale_metadata": {"data_type": "uint8", "num_channels": 2, "type": "image"},
    }
    for f in (1, 2):
        scale = {"size": [8 // f, 8 // f, 4], "resolution": [4 * f, 4 * f, 40], "chunk_size": [8, 8, 4],
                 "voxel_offset": [8 // f, 4 // f, 2], "encoding": "raw"}  # fmt: skip
        ts.open({**spec, "scale_metadata": scale}, open=True, create=True).result()[..., 1] = f
    volume = open_volume(tmp_path / "a", channel=1)
    assert volume.format == "Neuroglancer precomputed image"
    assert volume.levels[0].translation == (80.0, 16.0, 32.0)
    assert volume.levels[1].translation == (80.0, 18.0, 34.0)  # + (f - 1) / 2 of the finest
    assert [int(everything(volume, k).max()) for k in (0, 1)] == [1, 2]
    info = tmp_path / "a" / "info"
    for text, said in (
        ('{"@type": "neuroglancer_legacy_mesh"}', "holds neuroglancer_legacy_mesh, not a volume"),
        ('{"scales": []}', "info file is damaged"),
        ("{", "is damaged: it is not JSON"),
    ):
        info.write_text(text)
        with pytest.raises(UserError, match=said):
            open_volume(tmp_path / "a")


# HDF5


def test_hdf5_in_the_ways_of_its_programs(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("raw", data=np.stack([PIXELS, PIXELS + 1]))
        data.attrs.update({"axes": "czyx", "channels": ["raw", "stain"], "resolution": (0.04, 0.004, 0.008)})
        data.attrs.update({"units": "um", "offset": (1.0, 2.0, 3.0)})
    volume = open_volume(tmp_path / "a.h5", channel="stain")
    assert (volume.unit, volume.levels[0].translation) == ("micrometer", (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(everything(volume), PIXELS + 1)


@pytest.mark.parametrize(
    ("axes", "resolution", "offset", "units"),
    [
        ("zyxc", [40, 4, 8, 1], [-40, -8, 16, 0], "nm"),
        ("xyz", [8, 4, 40], [16, -8, -40], "nm"),
        ("czyx", [40, 4, 8], [-40, -8, 16], ["nm", "nm", "nm"]),
        ("zyx", [40, 4, 8], [-40, -8, 16], list("nm")),
    ],
)
def test_hdf5_numbers_belong_to_axes(tmp_path: Path, axes, resolution, offset, units) -> None:
    shape = [{"z": 4, "y": 5, "x": 6, "c": 1}[axis] for axis in axes]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("raw", data=np.zeros(shape, "u1"))
        data.attrs.update({"axes": axes, "resolution": resolution, "offset": offset, "units": units})
    level = open_volume(tmp_path / "a.h5").levels[0]
    assert (level.scale, level.translation) == ((40, 4, 8), (-40, -8, 16))


def test_a_number_that_comes_twice_and_an_image_by_another_name(tmp_path: Path) -> None:
    image = imagecodecs.png_encode(PIXELS[0])
    for name in ("1", "01"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / f"{name}.png").write_bytes(image)
    assert open_volume(tmp_path / "two").shape[0] == 2
    (tmp_path / "p.dat").write_bytes(image)
    volume = open_volume(tmp_path / "p.dat")
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape))[0], PIXELS[0])
