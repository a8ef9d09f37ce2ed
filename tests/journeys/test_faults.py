"""The machine fails in the middle of a run: one clear line, exit code 4, and the same bytes when it goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from eight_blocks import BLOCKS, ledger, make_volume, same, segment

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


def done(out):
    """Finished blocks of the network."""
    return sum(id.startswith("probabilities/") and "level" not in id for id in ledger(out))


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


def test_the_disk_fills(folder, whole, disk):
    place, remount = disk
    code, told, out = segment(folder / "volume.ome.zarr", place / "out.ome.zarr")
    assert code == 4, told
    assert "the disk is full; make room, then resume" in told.splitlines()[-1]
    assert done(out) < BLOCKS
    remount("size=100m")
    code, told, out = segment(folder / "volume.ome.zarr", place / "out.ome.zarr")
    assert code == 0, told
    assert same(whole, out)
