"""HDF5, NumPy, arrays in memory, samples, and everything that is no volume."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from connectoscope.errors import UserError
from connectoscope.volumes import open_volume, sample_names
from connectoscope.volumes.geometry import Box

PIXELS = np.random.default_rng(0).integers(0, 1000, (5, 16, 17)).astype("u2")


def everything(volume) -> np.ndarray:
    return volume.read(Box.of(volume.shape))


def test_cremi_style_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "cremi.h5"
    with h5py.File(path, "w") as file:
        raw = file.create_dataset("volumes/raw", data=PIXELS, chunks=(2, 8, 8), compression="gzip")
        raw.attrs["resolution"], raw.attrs["offset"] = (40.0, 4.0, 4.0), (120.0, 8.0, 0.0)
        file["volumes/labels"] = PIXELS.astype("u8")
        file["scores"] = np.zeros((3, 2))
    with pytest.raises(
        UserError, match=r"name one, as cremi\.h5::/volumes/labels: /volumes/labels, /volumes/raw"
    ):
        open_volume(path)
    volume = open_volume(f"{path}::/volumes/raw")
    np.testing.assert_array_equal(everything(volume), PIXELS)
    assert (volume.unit, volume.levels[0].scale) == ("nanometer", (40.0, 4.0, 4.0))
    assert volume.levels[0].translation == (120.0, 8.0, 0.0)
    assert volume.levels[0].chunks == (2, 8, 8)
    assert any("does not name its axes" in w for w in volume.warnings)
    with pytest.raises(UserError, match="no dataset '/raw'; it has /scores, /volumes/labels, /volumes/raw"):
        open_volume(f"{path}::/raw")


def test_only_dataset_is_picked_and_axes_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("image", data=np.stack([PIXELS, PIXELS + 1]).astype(">u2"))
        data.attrs["axes"], data.attrs["element_size_um"] = "czyx", (2.0, 1.0, 1.0)
    volume = open_volume(path, channel=1)
    np.testing.assert_array_equal(everything(volume), PIXELS + 1)
    assert (volume.unit, volume.levels[0].scale, volume.axes) == ("micrometer", (2.0, 1.0, 1.0), "czyx")


def test_hdf5_that_another_program_has_open(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = PIXELS
    holds = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print(flush=True); input()"
    command = [sys.executable, "-c", holds, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        np.testing.assert_array_equal(everything(open_volume(path)), PIXELS)
        other.kill()


def test_hdf5_without_a_volume(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["names"] = ["a", "b"]
    with pytest.raises(UserError, match="holds no volume"):
        open_volume(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["raw"] = PIXELS
    data = (tmp_path / "b.h5").read_bytes()
    (tmp_path / "b.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"b\.h5 is a damaged or incomplete HDF5"):
        open_volume(tmp_path / "b.h5")


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">u2", "i4", "u8", "f2", "f4", ">f8"])
def test_numpy(tmp_path: Path, dtype: str) -> None:
    pixels = (PIXELS % 100).astype(dtype)
    np.save(tmp_path / "a.npy", pixels)
    for source in (pixels, pixels.transpose(2, 1, 0).copy().transpose(2, 1, 0), tmp_path / "a.npy"):
        volume = open_volume(source, voxel_size="4nm")
        np.testing.assert_array_equal(everything(volume), pixels)
        assert volume.dtype == (np.uint8 if dtype == "?" else np.dtype(dtype).newbyteorder("="))
        assert volume.voxel_size_nm() == (4.0, 4.0, 4.0)
        assert len(volume.identity()["chunks"]) == 64
    assert open_volume(pixels[0]).shape == (1, 16, 17)


def test_a_voxel_size_in_place_of_a_stated_one_is_told() -> None:
    volume = open_volume("sample:vnc", voxel_size="40,4,4nm")
    assert volume.voxel_size_nm() == (40.0, 4.0, 4.0)
    assert "states voxels of 47.5 × 4.6 × 4.6 nm; 40 × 4 × 4 nm are used" in volume.warnings[-1]
    assert open_volume("sample:vnc", voxel_size="0.0475,0.0046,0.0046um").warnings == ()


def test_numpy_is_not_copied() -> None:
    pixels = PIXELS.copy()
    volume = open_volume(pixels)
    pixels[0, 0, 0] = 7
    assert everything(volume)[0, 0, 0] == 7


def test_zarr_and_dask_arrays(tmp_path: Path) -> None:
    on_disk = zarr.create_array(str(tmp_path / "a.zarr"), data=PIXELS, chunks=(2, 8, 8))
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), data=PIXELS, chunks=(2, 8, 8))
    for array in (on_disk, in_memory):
        volume = open_volume(array)
        np.testing.assert_array_equal(everything(volume), PIXELS)
        assert volume.levels[0].chunks == (2, 8, 8)
    assert open_volume(on_disk).source == str(tmp_path / "a.zarr")
    dask_array = pytest.importorskip("dask.array")  # comes with napari, not with the library
    volume = open_volume(dask_array.from_array(PIXELS, chunks=((2, 3), (16,), (9, 8))) + 1)
    np.testing.assert_array_equal(everything(volume), PIXELS + 1)
    with pytest.raises(UserError, match="zarr group"):
        open_volume(zarr.create_group(zarr.storage.MemoryStore()))


def test_samples_have_space_pyramids_truth_and_licence() -> None:
    assert {"fib", "lightsheet", "vnc", "xnh"} <= set(sample_names())
    for name, unit in (
        ("vnc", "nanometer"),
        ("fib", "nanometer"),
        ("lightsheet", "micrometer"),
        ("xnh", "nanometer"),
    ):
        volume = open_volume(f"sample:{name}")
        assert (volume.name, volume.unit, volume.warnings) == (name, unit, ())
        assert len(volume.levels) > 1 or max(volume.shape) <= 128
        assert max(volume.levels[0].translation) > 0
        assert everything(volume).std() > 1
    raw = open_volume("sample:vnc")
    for target in ("synapses", "mitochondria", "membranes"):
        truth = open_volume(f"sample:vnc::/labels/{target}")
        assert set(np.unique(everything(truth))) == {0, 1}
        assert [level.translation for level in truth.levels] == [level.translation for level in raw.levels]
    assert len(np.unique(everything(open_volume("sample:fib::/labels/neurons")))) > 50
    with pytest.raises(UserError, match="samples are fib, lightsheet"):
        open_volume("sample:brain")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tif", b"", "empty file"),
        ("a.tif", b"no tiff at all", "not what its name says"),
        ("a.tif", b"II*\x00\xff\xff\xff\x7f", "damaged or incomplete TIFF"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "damaged or incomplete HDF5"),
        ("a.npy", b"\x93NUMPY\x01\x00\xff", "not a readable NumPy array"),
        ("a.docx", b"PK\x03\x04 word", "readable are OME-Zarr"),
    ],
)
def test_files_that_are_no_volume(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        open_volume(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_objects_in_npy_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a readable NumPy array"):
        open_volume(tmp_path / "a.npy")


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_volume(tmp_path / "nothing.tif")
    with pytest.raises(UserError, match="no volume is named"):
        open_volume(" ")
    with pytest.raises(UserError, match="is not a volume: give a file"):
        open_volume(42)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="this folder holds no volume"):
        open_volume(tmp_path / "folder")
    with pytest.raises(UserError, match="names no server"):
        open_volume("https://")
    with pytest.raises(UserError, match="is not a valid address"):
        open_volume("http://[::1/a.zarr")
    with pytest.raises(UserError, match="float128 values cannot be opened"):
        open_volume(np.zeros((2, 2), np.longdouble))
    with pytest.raises(UserError, match="addresses begin with http"):
        open_volume("ftp://a.org/b.zarr")
    with pytest.raises(UserError, match="check the address and the connection"):
        open_volume("http://127.0.0.1:1/a.zarr")


def test_forbidden_file(tmp_path: Path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", PIXELS)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 would not stop root
    with pytest.raises(UserError, match="may not be read"):
        open_volume(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 4, 4), "u1"), "empty"),
        (np.zeros((2, 4, 4), complex), "cannot be opened"),
        (np.array([["a"]]), "cannot be opened"),
        (np.zeros((2, 2, 2, 2), "u1"), "4 axes"),
        (np.zeros(3, "u1"), "1 axes"),
    ],
)
def test_arrays_that_are_no_volume(array: np.ndarray, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_volume(array)


def test_empty_volumes_in_files(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(0, 4, 4), dtype="u1")
    np.save(tmp_path / "a.npy", np.zeros((3, 0, 4), "u1"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", shape=(3, 0, 4), dtype="u1")
    for name in ("a.zarr", "a.npy", "a.h5"):
        with pytest.raises(UserError, match="empty"):
            open_volume(tmp_path / name)
