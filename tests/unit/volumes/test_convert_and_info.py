"""The tasks ``convert`` and ``info``."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from connectoscope.errors import Cancelled, Stopped, UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks import convert, info
from connectoscope.volumes import (
    ImageSpec,
    create_image,
    downsample,
    open_volume,
    pyramid_factors,
    read_attributes,
)
from connectoscope.volumes.conversion import fill_pyramid
from connectoscope.volumes.geometry import Box

SHAPE = (3, 20, 300, 290)  # c, z, y, x


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 1000, SHAPE).astype("u2")
    nm = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (40, 4, 4), strict=True)}
    nm |= {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
    metadata = {"axes": "CZYX", "Channel": {"Name": ["a", "b", "c"]}, **nm}
    path = tmp_path / "source.ome.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", compression="zlib", metadata=metadata)
    return path, pixels


def converted(tmp_path: Path, source: Path | str, *, context: Context | None = None, **parameters):
    destination = tmp_path / "out.ome.zarr"
    parameters = convert.Convert(source=str(source), destination=str(destination), **parameters)
    return destination, convert.run(parameters, context or Context.local(tmp_path / "job"))


def damage(path: Path) -> None:
    """The second plane of a TIFF."""
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[1].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 200] = bytes(200)
    path.write_bytes(data)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_all_channels_with_a_pyramid(tmp_path: Path, source, version: str) -> None:
    path, pixels = source
    destination, summary = converted(tmp_path, path, version=version)
    assert (summary["axes"], summary["shape"], summary["levels"]) == ("czyx", list(SHAPE), 3)
    factors = pyramid_factors(SHAPE[1:], (40, 4, 4))
    for c, name in enumerate("abc"):
        volume = open_volume(destination, channel=name)
        assert volume.format == f"OME-Zarr {version}"
        assert volume.warnings == ()
        assert volume.voxel_size_nm() == (40.0, 4.0, 4.0)
        expected = pixels[c]
        for k, level in enumerate(volume.levels):
            if k:
                step = tuple(b // a for a, b in zip(factors[k - 1], factors[k], strict=True))
                expected = downsample(expected, step, labels=False)
            np.testing.assert_array_equal(volume.read(Box.of(level.shape), k), expected)
    assert read_attributes(destination)["finished"] is True
    assert not list(destination.rglob("*.__lock"))


def test_one_channel_of_a_box_keeps_its_place(tmp_path: Path, source) -> None:
    path, pixels = source
    destination, _ = converted(tmp_path, path, channel="b", box="2:9,10:200,30:33")
    volume = open_volume(destination)
    assert (volume.axes, volume.levels[0].translation) == ("zyx", (80.0, 40.0, 120.0))
    np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels[1, 2:9, 10:200, 30:33])


def test_times_are_kept(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 4 * 5, dtype="u1").reshape(2, 3, 4, 5)
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="minisblack", metadata={"axes": "TZYX"})
    destination, summary = converted(tmp_path, tmp_path / "a.ome.tif", voxel_size="4nm")
    assert summary["axes"] == "tzyx"
    for time in (0, 1):
        volume = open_volume(destination, time=time)
        np.testing.assert_array_equal(volume.read(Box.of(volume.shape)), pixels[time])


def test_labels_keep_their_values(tmp_path: Path) -> None:
    destination, _ = converted(tmp_path, "sample:fib::/labels/neurons", labels=True)
    fine, coarse = (set(np.unique(open_volume(destination).levels[k].array.read().result())) for k in (0, 1))
    assert coarse <= fine


def test_interrupted_convert_goes_on_and_ends_the_same(tmp_path: Path, source, monkeypatch) -> None:
    path, _ = source
    whole, _ = converted(tmp_path, path)
    expected = files_of(whole)
    whole.rename(tmp_path / "whole.ome.zarr")

    class Stopping(Context):
        left = 4

        def check_cancelled(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("stop")

    with pytest.raises(Cancelled):
        converted(tmp_path, path, context=Stopping.local(tmp_path / "job2"))
    destination = tmp_path / "out.ome.zarr"
    assert any("unfinished" in w for w in open_volume(destination).warnings)
    kept = {p: p.stat().st_mtime_ns for p in destination.rglob("c/*/*/*/*") if p.is_file()}
    assert kept
    (destination / "0" / "c" / "0.__lock").write_bytes(b"")

    with pytest.raises(UserError, match="another request"):
        converted(tmp_path, path, channel="a")
    converted(tmp_path, path, context=Context.local(tmp_path / "job3"))
    assert files_of(destination) == expected
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())


def test_finished_convert_says_so_and_is_not_repeated(tmp_path: Path, source) -> None:
    path, _ = source
    destination, summary = converted(tmp_path, path)
    stamp = (destination / "zarr.json").stat().st_mtime_ns
    assert converted(tmp_path, path)[1] == summary
    assert (destination / "zarr.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="another request"):
        converted(tmp_path, path, channel="a")
    overwriting = Context.local(tmp_path / "job2", overwrite=True)
    assert converted(tmp_path, path, channel="a", context=overwriting)[1]["axes"] == "zyx"


def test_a_result_does_not_hold_the_place_where_it_was_made(tmp_path: Path, source) -> None:
    destination, summary = converted(tmp_path, source[0])
    assert summary["destination"] == str(destination)
    assert str(destination).encode() not in (destination / "zarr.json").read_bytes()


def test_refused_destinations(tmp_path: Path, source) -> None:
    path, _ = source
    local = Context.local(tmp_path / "job", overwrite=True)
    cases = {
        "missing/out.zarr": "does not exist",
        "photos.zarr": "was not made by connectoscope",
    }
    (tmp_path / "photos.zarr").mkdir()
    (tmp_path / "photos.zarr" / "a.jpg").write_bytes(b"x")
    for name, said in cases.items():
        with pytest.raises(UserError, match=said):
            convert.run(convert.Convert(source=str(path), destination=str(tmp_path / name)), local)
    with pytest.raises(UserError, match="the source itself"):
        convert.run(convert.Convert(source="sample:vnc", destination=open_volume("sample:vnc").source), local)
    for box, said in (("0:99,0:1,0:1", "not inside level"), ("x", "is not z0:z1")):
        with pytest.raises(UserError, match=said):
            converted(tmp_path, path, box=box)
    with pytest.raises(UserError, match="no level 3"):
        converted(tmp_path, path, level=3)
    assert not (tmp_path / "out.ome.zarr").exists()


def test_unreadable_pixels_leave_nothing_behind(tmp_path: Path, source) -> None:
    damage(source[0])
    with pytest.raises(UserError, match="cannot read voxels 1:2,"):
        converted(tmp_path, source[0])
    assert not (tmp_path / "out.ome.zarr").exists()


def test_info(tmp_path: Path, source) -> None:
    path, pixels = source
    context = Context.local(tmp_path / "job")
    summary = info.run(info.Info(source=str(path), channel="c"), context)
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["shape"], summary["voxel_size"], summary["channel"]) == (list(SHAPE[1:]), [40, 4, 4], 2)
    assert summary["statistics"]["of_all"]
    assert summary["statistics"]["mean"] == pytest.approx(pixels[2].mean(), abs=1e-3)
    text = info.render(summary)
    assert "40 × 4 × 4 nm" in text
    assert "channels    a, b, c" in text


def test_info_samples_what_is_large_and_counts_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(300, 260, 260))
    array[150, 130, 130] = np.nan
    array.flush()
    summary = info.run(info.Info(source=str(path)), Context.local(tmp_path / "job"))
    assert not summary["statistics"]["of_all"]
    assert summary["statistics"]["voxels"] == 64**4
    assert "unknown" in info.render(summary)
    np.save(path, np.full((2, 2, 2), np.nan))
    summary = info.run(info.Info(source=str(path)), Context.local(tmp_path / "job"))
    assert summary["statistics"] == {"voxels": 8, "of_all": True, "not_finite": 8}
    assert "not finite  8 voxels" in info.render(summary)


def test_a_volume_of_many_times_is_opened_once(tmp_path: Path) -> None:
    times = np.random.default_rng(0).integers(0, 99, (120, 2, 8, 8)).astype("u1")
    tifffile.imwrite(tmp_path / "t.tif", times, imagej=True, metadata={"axes": "TZYX"})
    words = ["convert", "t.tif", "t.ome.zarr", "--voxel-size", "4nm"]
    soft, hard = 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = subprocess.run(
        [sys.executable, "-m", "connectoscope", *words],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = open_volume(tmp_path / "t.ome.zarr", time=119)
    np.testing.assert_array_equal(last.read(Box.of(last.shape)), times[119])


def test_what_is_written_stays_when_the_source_goes(tmp_path: Path) -> None:
    spec = ImageSpec((4, 8, 8), np.dtype("u1"), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), None, (2, 8, 8))

    def read(lead: tuple[int, ...], box: Box) -> np.ndarray:
        if box.start[0] >= good:
            raise UserError("the share has gone")
        return np.zeros(box.shape, "u1")

    for good, kind in ((0, UserError), (2, Stopped)):
        path = tmp_path / f"{good}.zarr"
        with pytest.raises(kind, match="the share has gone") as end:
            fill_pyramid(
                path, create_image(path, spec), spec, read, source_chunks=(2, 8, 8), progress=lambda *_: None
            )
        assert type(end.value) is kind


def test_a_link_to_an_empty_folder_is_filled(tmp_path: Path, source) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "out.ome.zarr").symlink_to(tmp_path / "big")
    destination, _ = converted(tmp_path, source[0], channel="a", box="0:4,0:9,0:9")
    assert destination.is_symlink()
    assert open_volume(tmp_path / "big").shape == (4, 9, 9)
    again = Context.local(tmp_path / "again", overwrite=True)
    converted(tmp_path, source[0], context=again, channel="a", box="0:4,0:8,0:8")
    assert destination.is_symlink()
    assert open_volume(tmp_path / "big").shape == (4, 8, 8)
    assert not (tmp_path / "big.old").exists()


def test_a_link_is_emptied_and_what_lies_beside_its_folder_stays(tmp_path: Path, source) -> None:
    real = tmp_path / "real"
    (real / "big").mkdir(parents=True)
    (real / "big.old").mkdir()
    (real / "big.old" / "mine.txt").write_text("mine")
    link = tmp_path / "out.ome.zarr"
    link.symlink_to(real / "big")
    converted(tmp_path, source[0], channel="a", box="0:4,0:9,0:9")
    again = Context.local(tmp_path / "again", overwrite=True)
    converted(tmp_path, source[0], context=again, channel="a", box="0:4,0:8,0:8")
    assert sorted(p.name for p in real.iterdir()) == ["big", "big.old"]
    assert (real / "big.old" / "mine.txt").exists()
    shutil.rmtree(real / "big")
    (real / "big").mkdir()
    damage(source[0])
    with pytest.raises(UserError, match="cannot read voxels 1:2,"):
        converted(tmp_path, source[0], context=Context.local(tmp_path / "third"))
    assert link.is_symlink()
    assert not any((real / "big").iterdir())
