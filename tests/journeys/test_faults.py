"""The machine fails in the middle of a run: one clear line, exit code 4, and the same bytes when it goes on."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from eight_blocks import BLOCKS, done, entries, make_volume, same, segment, supervised

from connectoscope.jobs.folder import JobFolder
from connectoscope.volumes import open_volume, read_attributes
from connectoscope.volumes.geometry import Box

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults")
    make_volume(path / "volume.ome.zarr")
    return path


@pytest.fixture(scope="module")
def whole(folder):
    code, told, out = segment(folder / "volume.ome.zarr", "whole")
    assert code == 0, told
    return out


def is_one_line(told, *words):
    """Whether what was said ends with one clear line, and nothing is a bug."""
    assert "Traceback" not in told
    assert "bug" not in told
    lines = [line for line in told.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, told
    return True


def until_done(process, out, blocks):
    """Wait until so many blocks are done."""
    end = time.monotonic() + 100
    while done(out) < blocks:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def disk(tmp_path):
    """mount(options): a file system of the test's own, in memory, mounted or changed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a file system takes Linux and root")
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=False).returncode

    if mount("size=120k"):
        pytest.skip("no file system may be mounted here")
    yield place, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)
    subprocess.run(["umount", "-l", place], check=True)


def test_the_disk_fills_and_becomes_read_only(folder, whole, disk):
    place, remount = disk
    out = place / "out.ome.zarr"
    remount("ro")
    code, told, _ = segment(folder / "volume.ome.zarr", out)
    assert code == 2
    assert is_one_line(told, f"cannot write in {place} (Read-only file system)")
    remount("rw")
    code, told, _ = segment(folder / "volume.ome.zarr", out)
    assert code == 4, told
    assert "the disk is full; make room, then resume" in told.splitlines()[-1]
    before = done(out)
    assert before < BLOCKS
    remount("ro,size=100m")
    code, told, _ = segment(folder / "volume.ome.zarr", out)
    assert code == 2
    assert is_one_line(told, f"cannot write in {out}.job (Read-only file system)")
    remount("rw")
    assert done(out) == before
    code, told, _ = segment(folder / "volume.ome.zarr", out)
    assert code == 0, told
    assert same(whole, out)


def test_the_disk_fills_under_a_file(tmp_path, disk):
    place, remount = disk
    remount("size=2m")
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (64, 256, 256), np.uint8))
    words = ["convert", tmp_path / "noise.npy", place / "out.h5", "--voxel-size", "4nm"]
    command = [sys.executable, "-m", "connectoscope", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "make room" in done.stderr
    assert not (place / "out.h5").exists()
    remount("size=100m")
    assert subprocess.run(command, check=False).returncode == 0


def bound_by_permissions():
    """Makes a process that root starts obey permissions, as others do."""
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        pytest.skip("permissions do not bind root here")
    prctl, drop, override, read_search = ctypes.CDLL(None).prctl, 24, 1, 2
    return lambda: (prctl(drop, override, 0, 0, 0), prctl(drop, read_search, 0, 0, 0))


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are POSIX")
@pytest.mark.parametrize("what", ["result", "job"])
def test_the_permission_is_lost(folder, whole, what):
    process, out = segment(
        folder / "volume.ome.zarr", f"forbidden_{what}", wait=False, preexec_fn=bound_by_permissions()
    )
    until_done(process, out, 2)
    top = out if what == "result" else Path(f"{out}.job")
    places = [top, *(path for path in top.rglob("*") if path.is_dir()), *top.glob("events.jsonl")]
    modes = {path: path.stat().st_mode for path in places}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    told = process.communicate(timeout=100)[0]
    for path, mode in modes.items():
        path.chmod(mode)
    assert process.returncode == 4, told
    assert is_one_line(told, "is no longer accessible (permission denied); fix that, then resume")
    assert 2 <= done(out) < BLOCKS
    code, told, _ = segment(folder / "volume.ome.zarr", out)
    assert code == 0, told
    assert same(whole, out)


def test_a_chunk_becomes_corrupt_on_the_way(folder, whole):
    volume = folder / "damaged.ome.zarr"
    shutil.copytree(folder / "volume.ome.zarr", volume, copy_function=shutil.copy2)
    process, out = segment(volume, "skipped", wait=False)
    until_done(process, out, 2)
    JobFolder(f"{out}.job").cancel()
    told = process.communicate(timeout=100)[0]
    assert process.returncode == 3, told
    before = done(out)
    assert before < BLOCKS
    chunk = volume / "0" / "c" / "7" / "0" / "0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[: len(data) // 2])
    code, told, _ = segment(volume, "skipped")
    assert code == 4, told
    assert is_one_line(
        told, "cannot read voxels 56:64,0:128,0:128 (damaged or incomplete file?)", "0/c/7/0/0"
    )
    assert "--skip-corrupt takes damaged chunks as 0" in told
    assert before <= done(out) < BLOCKS

    code, told, _ = segment(volume, "skipped", "--skip-corrupt")
    assert code == 0, told
    assert is_one_line(told, "1 chunk of the source is corrupt, taken as 0: 56:64,0:128,0:128")
    assert read_attributes(out)["summary"]["skipped_chunks"] == ["56:64,0:128,0:128"]
    lines = {entry["id"]: entry for entry in entries(out)}
    assert lines["probabilities/7_0_0"]["skipped"] == ["56:64,0:128,0:128"]
    assert sum("skipped" in line for line in lines.values()) == 1
    good, made = (open_volume(path, channel=0) for path in (whole, out))
    box = Box((0, 0, 0), (56, *good.shape[1:]))
    np.testing.assert_array_equal(made.read(box), good.read(box))
    assert not made.read(Box((56, 0, 0), good.shape)).any()
    code, told, _ = segment(volume, "skipped")
    assert code == 2  # what is lacking is not passed over in silence
    chunk.write_bytes(data)
    shutil.rmtree(f"{out}.job")
    code, told, _ = segment(volume, "skipped")
    assert code == 2
    assert is_one_line(told, "was made with --skip-corrupt and lacks 1 damaged chunk of its source")


def test_a_corrupt_chunk_is_named_before_anything_is_done(folder):
    volume = folder / "damaged_before.ome.zarr"
    shutil.copytree(folder / "volume.ome.zarr", volume)
    (volume / "0" / "c" / "3" / "0" / "0").write_bytes(b"noise")
    code, told, out = segment(volume, "refused")
    assert code == 2
    assert is_one_line(told, "cannot read voxels 24:32,0:128,0:128 (damaged or incomplete file?)")
    assert not out.exists()
    code, told, out = segment(volume, "refused", "--skip-corrupt", "--workers", 2)
    assert code == 0, told
    assert read_attributes(out)["summary"]["skipped_chunks"] == ["24:32,0:128,0:128"]


# The allocator has no room for tiles of this width: as CUDA says it, or as the kernel's out-of-memory killer does.
SHORT_OF_MEMORY = """
import os, torch
conv3d = torch.nn.functional.conv3d
def starved(x, *rest, **more):
    if x.shape[-1] > 80:
        {end}
    return conv3d(x, *rest, **more)
torch.nn.functional.conv3d = starved
"""


@pytest.mark.parametrize(
    "end",
    [
        "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')",
        "os.kill(os.getpid(), 9)",
    ],
    ids=["cuda", "killer"],
)
def test_memory_is_short(folder, whole, monkeypatch, end):
    if "kill" in end and sys.platform == "win32":
        pytest.skip("SIGKILL is POSIX")
    events, kills = [], iter([0, 1, 1, 1])
    out = folder / f"short{len(end)}.ome.zarr"
    code, job = supervised(
        monkeypatch, folder / "volume.ome.zarr", out, SHORT_OF_MEMORY.format(end=end), events.append,
        count_oom_kills=lambda: {"host": next(kills)},
    )  # fmt: skip
    assert code == 0, job.state().message
    restarted = [event["message"] for event in events if event["type"] == "restarted"]
    assert restarted == ["out of memory: going on with tiles of half the size"]
    summary = job.read_events()[0][-1]["summary"]
    assert "8 of 8 blocks were made with a smaller tile for want of memory" in str(summary["warnings"])
    assert {e["revision"] for e in entries(out) if e["id"].startswith("probabilities/")} == {1}
    a, b = (open_volume(path, channel=0) for path in (whole, out))
    difference = a.read(Box.of(a.shape)).astype(int) - b.read(Box.of(a.shape))
    assert np.abs(difference).max() <= 1
