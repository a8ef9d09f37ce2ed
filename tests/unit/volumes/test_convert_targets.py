"""Converting to other formats than OME-Zarr: pyramids, going on, and never half a result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from connectoscope.blockwise import destination as places
from connectoscope.errors import Cancelled, Corrupt, Stopped, UserError
from connectoscope.jobs.context import Context
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.tasks import convert, info
from connectoscope.volumes import downsample, open_volume, read_marks, tiff_write
from connectoscope.volumes.framing import coarser_by
from connectoscope.volumes.geometry import Box
from connectoscope.volumes.marks import set_marks

SHAPE = (20, 300, 290)
CHUNKED = ("out.n5", "out.precomputed")
SINGLE = ("out.h5", "out.ome.tif")


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 1000, SHAPE).astype("u2")
    with h5py.File(tmp_path / "source.h5", "w") as file:
        data = file.create_dataset("raw", data=pixels, chunks=(10, 64, 64), compression="gzip")
        data.attrs.update({"resolution": (40.0, 4.0, 4.0), "offset": (80.0, 0.0, -16.0)})
    return tmp_path / "source.h5", pixels


class Stopping(Context):
    left = 3

    def check_cancelled(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("stop")


def converted(folder: Path, source: Path, name: str, context: Context | None = None, **more):
    destination = folder / name
    parameters = convert.Convert(source=str(source), destination=str(destination), **more)
    return destination, convert.run(parameters, context or Context.local(folder / "job"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", CHUNKED)
def test_pyramids_are_those_of_ome_zarr(tmp_path: Path, source, name: str) -> None:
    path, _ = source
    zarr, _ = converted(tmp_path, path, "out.ome.zarr")
    other, summary = converted(tmp_path, path, name)
    wanted, found = open_volume(zarr), open_volume(other)
    assert summary["levels"] == len(wanted.levels) == len(found.levels) == 3
    assert found.warnings == ()
    for k, (a, b) in enumerate(zip(wanted.levels, found.levels, strict=True)):
        np.testing.assert_array_equal(wanted.read(Box.of(a.shape), k), found.read(Box.of(b.shape), k))
        assert (a.scale, a.translation) == (b.scale, b.translation)
    assert read_marks(other)["finished"] is True


@pytest.mark.parametrize("band", [2**26, 2**18])  # several sections at a time; a part of one
def test_ome_tiff_has_a_pyramid_in_y_and_x(tmp_path: Path, monkeypatch, band: int) -> None:
    monkeypatch.setattr(tiff_write, "_BAND_BYTES", band)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 700, 1100)).astype("u1")
    metadata = {"axes": "CZYX", "Channel": {"Name": ["a<b", "µ"]}}
    tifffile.imwrite(tmp_path / "in.ome.tif", pixels, photometric="minisblack", metadata=metadata)
    path, summary = converted(tmp_path, tmp_path / "in.ome.tif", "out.ome.tif", voxel_size="40,4,4nm")
    assert (summary["axes"], summary["levels"]) == ("czyx", 3)
    with tifffile.TiffFile(path) as tif:
        assert (tif.is_ome, tif.is_bigtiff, len(tif.series), len(tif.series[0].levels)) == (True, True, 1, 3)
    for c, name in enumerate(("a<b", "µ")):
        volume = open_volume(path, channel=name)
        assert volume.voxel_size_nm(1) == (40, 8, 8)
        expected = pixels[c]
        for k, level in enumerate(volume.levels):
            expected = expected if k == 0 else downsample(expected, (1, 2, 2), labels=False)
            np.testing.assert_array_equal(volume.read(Box.of(level.shape), k), expected)


@pytest.mark.parametrize("shape", [(1, 1030, 17000), (1, 300, 7000), (2, 1, 3001)])
def test_levels_of_odd_sizes_are_read_as_they_are_written(tmp_path: Path, shape) -> None:
    np.save(tmp_path / "in.npy", np.zeros(shape, "u1"))
    zarr, _ = converted(tmp_path, tmp_path / "in.npy", "out.ome.zarr", voxel_size="10nm")
    tiff, _ = converted(tmp_path, tmp_path / "in.npy", "out.ome.tif", voxel_size="10nm")
    steps = [level.scale[2] / 10 for level in open_volume(tiff).levels]
    assert steps == [2.0**k for k in range(len(steps))]
    for level in open_volume(tiff).levels:
        assert level.scale[0] == 10
        assert level.translation[2] == (level.scale[2] - 10) / 2
        assert level.scale[1] == (level.scale[2] if shape[1] > 1 else 10)
    assert len(open_volume(zarr).levels) > 1


@pytest.mark.parametrize(("size", "coarse", "step"), [
    (9, 9, 1), (9, 5, 2), (9, 4, 2), (3, 2, 2), (3, 1, 2), (2, 1, 2), (1, 1, 1), (1000, 250, 4), (1000, 15, 64),
    (3000, 1000, 3), (1030, 17, 64), (70000, 35000, 2),
])  # fmt: skip
def test_whole_voxels_in_one_of_a_coarser_level(size, coarse, step) -> None:
    assert coarser_by(size, coarse) == step


@pytest.mark.parametrize("name", CHUNKED)
def test_an_interrupted_folder_is_gone_on_with(tmp_path: Path, source, name: str) -> None:
    path, _ = source
    whole, _ = converted(tmp_path, path, name)
    expected = files_of(whole)
    whole.rename(tmp_path / "whole")
    with pytest.raises(Cancelled):
        converted(tmp_path, path, name, Stopping.local(tmp_path / "job2"))
    destination = tmp_path / name
    kept = {p: p.stat().st_mtime_ns for p in destination.rglob("s0/**/*") if p.is_file() and p.suffix == ""}
    assert kept
    assert "the volume is unfinished: the run that makes it" in " ".join(open_volume(destination).warnings)
    with pytest.raises(UserError, match="another request"):
        converted(tmp_path, path, name, box="0:1,0:9,0:9")
    converted(tmp_path, path, name, Context.local(tmp_path / "job3"))
    assert open_volume(destination).warnings == ()
    assert files_of(destination) == expected
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())


def test_gaps_are_told_of_copies_too(tmp_path: Path, source) -> None:
    first, _ = converted(tmp_path, source[0], "first.ome.zarr")
    set_marks(first, summary={"skipped_chunks": ["0:10,0:64,0:64"]})
    said = "first.ome.zarr was made with --skip-corrupt: 1 chunk of its source is missing in it"
    for name in ("copy.ome.zarr", "copy.n5", "copy.h5"):
        copy, _ = converted(tmp_path, first, name, Context.local(tmp_path / f"{name}.job"))
        assert said in open_volume(copy).warnings
        again, _ = converted(tmp_path, copy, f"again-{name}", Context.local(tmp_path / f"again-{name}.job"))
        assert said in open_volume(again).warnings


@pytest.mark.parametrize("name", SINGLE)
def test_a_file_is_whole_or_not_there(tmp_path: Path, source, name: str) -> None:
    path, pixels = source
    foreign = tmp_path / f"{name}.part"
    foreign.write_text("mine")
    stopping = Stopping.local(tmp_path / "job2")
    stopping.left = 0
    with pytest.raises(Cancelled):
        converted(tmp_path, path, name, stopping)
    assert list(tmp_path.glob("out*")) == [foreign]
    assert not list((tmp_path / "job2").rglob("new*"))
    destination, summary = converted(tmp_path, path, name)
    np.testing.assert_array_equal(open_volume(destination).read(Box.of(SHAPE)), pixels)
    marks = read_marks(destination)
    assert (marks["finished"], marks["signature"]["task"]) == (True, "convert")
    assert (tmp_path / f"{name}.json").is_file()
    stamp = destination.stat().st_mtime_ns
    assert converted(tmp_path, path, name)[1] == summary
    assert destination.stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="another request"):
        converted(tmp_path, path, name, box="0:1,0:9,0:9")
    again = Context.local(tmp_path / "job4", overwrite=True)
    assert converted(tmp_path, path, name, again, box="0:1,0:9,0:9")[1]["shape"] == [1, 9, 9]
    assert foreign.read_text() == "mine"


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path: Path, source, monkeypatch) -> None:
    def full(new: Path, part: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places, "stage_file", full)
    with pytest.raises(Stopped, match=r"No space left on device\); make room and start it again"):
        converted(tmp_path, source[0], "out.h5")
    assert not list(tmp_path.glob("out*"))


def test_a_full_disk_leaves_what_was_to_be_overwritten(tmp_path: Path, source, monkeypatch) -> None:
    converted(tmp_path, source[0], "out.h5")
    before = {k: v for k, v in files_of(tmp_path).items() if k.startswith("out")}

    def full(new: Path, part: Path) -> None:
        part.write_bytes(b"the first of many bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)
    again = Context.local(tmp_path / "job2", overwrite=True)
    with pytest.raises(Stopped, match="No space left on device"):
        converted(tmp_path, source[0], "out.h5", again, box="0:1,0:9,0:9")
    assert {k: v for k, v in files_of(tmp_path).items() if k.startswith("out")} == before


@pytest.mark.parametrize("name", ["out.ome.zarr", *CHUNKED])
@pytest.mark.parametrize("linked", [False, True])
def test_an_overwrite_that_cannot_read_its_source_leaves_the_old_folder(
    tmp_path: Path, source, name: str, linked: bool
) -> None:
    destination, _ = converted(tmp_path, source[0], name)
    if linked:
        (tmp_path / "elsewhere").mkdir()
        destination = destination.rename(tmp_path / "elsewhere" / name)
        (tmp_path / name).symlink_to(destination)
    before = files_of(destination)
    stopping = Stopping.local(tmp_path / "job1", overwrite=True)
    stopping.left = 0
    with pytest.raises(Cancelled):
        converted(tmp_path, source[0], name, stopping, box="0:9,0:99,0:99")
    assert files_of(destination) == before
    damage(source[0], 0)
    with pytest.raises(Corrupt):
        converted(tmp_path, source[0], name, Context.local(tmp_path / "job2", overwrite=True))
    assert files_of(destination) == before
    assert (tmp_path / name).is_symlink() == linked
    for folder in (tmp_path / "job1" / "scratch", tmp_path / "job2" / "scratch", tmp_path / "elsewhere"):
        assert [p.name for p in folder.glob("*")] == ([name] if linked and folder.name == "elsewhere" else [])
    converted(tmp_path, source[0], name, Context.local(tmp_path / "job3", overwrite=True), skip_corrupt=True)
    assert read_marks(destination)["summary"]["skipped_chunks"]
    assert not list(destination.parent.glob(".*"))


@pytest.mark.parametrize("name", SINGLE)
def test_a_cancelled_overwrite_of_a_damaged_source_is_resumed(
    tmp_path: Path, source, monkeypatch, name: str
) -> None:
    """Noting what is damaged does not make the old file pass for the new one."""
    path, _ = source
    converted(tmp_path, path, name)
    chunk = damage(path, 9)
    options = {"source": str(path), "destination": str(tmp_path / name), "skip_corrupt": True}
    job = JobFolder.create(JobRequest.make("convert", options, overwrite=True, device="cpu"))

    def cancelled(new: Path, part: Path) -> None:
        raise Cancelled("at the last moment")

    monkeypatch.setattr(places, "stage_file", cancelled)
    with pytest.raises(Cancelled):
        convert.run(convert.Convert(**options), Context(job, job.request))
    monkeypatch.undo()
    assert convert.run(convert.Convert(**options), Context(job, job.request))["skipped_chunks"] == [
        str(chunk)
    ]


@pytest.mark.parametrize("name", [*SINGLE, *CHUNKED])
def test_what_is_somebody_elses_stays(tmp_path: Path, source, name: str) -> None:
    path, _ = source
    theirs = tmp_path / name
    if name in SINGLE:
        theirs.write_bytes(b"precious")
    else:
        theirs.mkdir()
        (theirs / "precious").write_bytes(b"precious")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="was not made by connectoscope"):
        converted(tmp_path, path, name, Context.local(tmp_path / "job", overwrite=True))
    assert {k: v for k, v in files_of(tmp_path).items() if not k.startswith("job")} == before


def damage(path: Path, number: int) -> Box:
    """Spoil a chunk of an HDF5 file; its box."""
    with h5py.File(path) as file:
        chunk, shape = file["raw"].id.get_chunk_info(number), file["raw"].chunks
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 100] = bytes(100)
    path.write_bytes(data)
    stop = [min(a + n, total) for a, n, total in zip(chunk.chunk_offset, shape, SHAPE, strict=True)]
    return Box(tuple(map(int, chunk.chunk_offset)), tuple(stop))


@pytest.mark.parametrize("name", [*SINGLE, *CHUNKED])
def test_unreadable_voxels_leave_nothing_behind(tmp_path: Path, source, name: str) -> None:
    path, _ = source
    damage(path, 0)
    with pytest.raises(Corrupt, match="cannot read voxels 0:"):
        converted(tmp_path, path, name)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", [*SINGLE, *CHUNKED])
def test_a_corrupt_chunk_can_be_skipped(tmp_path: Path, source, name: str) -> None:
    path, pixels = source
    chunk = damage(path, 9)
    with pytest.raises(
        (Corrupt, Stopped), match=rf"cannot read voxels {chunk} \(damaged or incomplete file\?\)"
    ):
        converted(tmp_path, path, name)
    out, summary = converted(tmp_path, path, name, skip_corrupt=True)
    assert summary["skipped_chunks"] == [str(chunk)]
    expected = pixels.copy()
    expected[chunk.slices] = 0
    np.testing.assert_array_equal(open_volume(out).read(Box.of(pixels.shape)), expected)
    assert converted(tmp_path, path, name, skip_corrupt=True)[1]["skipped_chunks"] == [str(chunk)]
    with pytest.raises(UserError, match="made with --skip-corrupt and lacks 1 damaged"):
        converted(tmp_path, path, name)


def test_damage_outside_of_the_box_stops_nothing(tmp_path: Path, source) -> None:
    path, pixels = source
    assert damage(path, 0).start == (0, 0, 0)
    out, summary = converted(tmp_path, path, "out.n5", box="10:20,64:300,0:290")
    assert "skipped_chunks" not in summary
    np.testing.assert_array_equal(open_volume(out).read(Box.of((10, 236, 290))), pixels[10:, 64:])
    told = info.run(info.Info(source=str(path)), Context.local(tmp_path / "job"))
    assert told["statistics"]["voxels"] == pixels.size - 10 * 64 * 64
    assert not told["statistics"]["of_all"]


def test_skipped_chunks_are_not_forgotten_with_the_job_folder(tmp_path: Path, source) -> None:
    path, _ = source
    damage(path, 9)
    other = Stopping.local(tmp_path / "job", threads=1)
    with pytest.raises(Cancelled):
        converted(tmp_path, path, "out.n5", other, skip_corrupt=True)
    for more in ({}, {"skip_corrupt": True}):
        with pytest.raises(
            UserError, match="its job folder, which listed the damaged chunks, is gone: use --overwrite"
        ):
            converted(tmp_path, path, "out.n5", Context.local(tmp_path / "new"), **more)
    assert converted(tmp_path, path, "out.n5", skip_corrupt=True)[1]["skipped_chunks"]


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), "i8"))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("raw", data=np.zeros((2, 2, 3, 4), "u1")).attrs["axes"] = "czyx"
    for source, name, said in (
        ("a.npy", "out.ome.tif", "OME-TIFF cannot hold int64 values"),
        ("a.npy", "out.precomputed", "precomputed cannot hold int64"),
        ("c.h5", "out.precomputed", "one channel and time; choose with --channel"),
    ):
        with pytest.raises(UserError, match=said):
            converted(tmp_path, tmp_path / source, name)
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), "f4"))
    with pytest.raises(UserError, match="holds float32 values, not labels"):
        converted(tmp_path, tmp_path / "a.npy", "out.n5", labels=True)
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), "u1"))
    with pytest.raises(UserError, match=r"--version is for OME-Zarr, and out\.n5 is N5"):
        converted(tmp_path, tmp_path / "a.npy", "out.n5", version="0.4")
    with pytest.raises(UserError, match=r"must state a voxel size.*--voxel-size"):
        converted(tmp_path, tmp_path / "a.npy", "out.precomputed")
    assert not list(tmp_path.glob("out*"))


def test_segmentations_for_neuroglancer(tmp_path: Path) -> None:
    labels = np.arange(4 * 5 * 6, dtype="u8").reshape(4, 5, 6) * 10**12
    np.save(tmp_path / "a.npy", labels)
    more = {"labels": True, "voxel_size": "40,4,4nm"}
    path, _ = converted(tmp_path, tmp_path / "a.npy", "out.precomputed", **more)
    info = json.loads((path / "info").read_text())
    assert (info["type"], info["scales"][0]["encoding"]) == ("segmentation", "compressed_segmentation")
    np.testing.assert_array_equal(open_volume(path).read(Box.of(labels.shape)), labels)


def test_offsets_that_precomputed_cannot_hold_are_rounded_with_a_word(tmp_path: Path, source) -> None:
    context = Context.local(tmp_path / "job")
    path, _ = source
    with h5py.File(path, "r+") as file:
        file["raw"].attrs["offset"] = (81.0, 0.0, -9.0)
    destination, _ = converted(tmp_path, path, "out.precomputed", context)
    assert open_volume(destination).levels[0].translation == (80.0, 0.0, -8.0)
    assert "begin at whole voxels" in (tmp_path / "job" / "events.jsonl").read_text()


@pytest.mark.parametrize("name", SINGLE)
def test_somebody_elses_file_beside_it_stays(tmp_path: Path, source, name: str) -> None:
    beside = tmp_path / f"{name}.json"
    beside.write_text('{"mine": 1}')
    with pytest.raises(UserError, match="in the way"):
        converted(tmp_path, source[0], name)
    assert beside.read_text() == '{"mine": 1}'
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["out.precomputed", "out.h5", "out.ome.tif"])
def test_a_refused_overwrite_leaves_the_old_result(tmp_path: Path, name: str) -> None:
    """Precomputed because no voxel size is known, single files because a chunk cannot be read."""
    np.save(tmp_path / "a.npy", np.arange(2 * 3 * 4, dtype="u1").reshape(2, 3, 4))
    destination, _ = converted(tmp_path, tmp_path / "a.npy", name, voxel_size="5nm")
    again = Context.local(tmp_path / "again", overwrite=True)
    if name == "out.precomputed":
        before = files_of(destination)
        with pytest.raises(UserError, match="must state a voxel size"):
            converted(tmp_path, tmp_path / "a.npy", name, again)
        assert files_of(destination) == before
        return
    marks = destination.with_name(name + ".json")
    before = destination.read_bytes(), marks.read_bytes()
    bad, _ = converted(tmp_path, tmp_path / "a.npy", "bad.ome.zarr", voxel_size="5nm")
    chunk = next(p for p in (bad / "0").rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot read voxels"):
        converted(tmp_path, bad, name, again)
    assert (destination.read_bytes(), marks.read_bytes()) == before
    np.save(tmp_path / "b.npy", np.ones((2, 3, 4), "u1"))
    converted(
        tmp_path, tmp_path / "b.npy", name, Context.local(tmp_path / "more", overwrite=True), voxel_size="5nm"
    )
    assert (open_volume(destination).read(Box((0, 0, 0), (2, 3, 4))) == 1).all()
