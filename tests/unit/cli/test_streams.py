"""Where nobody can read what is told, it is done all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from connectoscope import cli
from connectoscope.terminal import complain

full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that is always full")  # noqa: PTH110


def shell(folder: Path, words: str) -> int:
    line = f'"{sys.executable}" -m connectoscope {words}'
    return subprocess.run(["sh", "-c", line], cwd=folder, check=False, timeout=100).returncode


@full
@pytest.mark.parametrize("gone", ["2>/dev/full", "2>&-", "2>&- >&-", "2>/dev/full >/dev/full"])
def test_a_run_goes_on_where_nothing_can_be_told(tmp_path: Path, gone: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), "u4"))  # of which there is a warning
    assert shell(tmp_path, f"convert a.npy a.ome.zarr {gone}") == 0
    assert (tmp_path / "a.ome.zarr").is_dir()
    assert shell(tmp_path, f"info none.npy {gone}") == 2
    lost = gone.endswith(">/dev/full") and "2>/dev/full >" in gone  # what was asked for is what is printed
    assert shell(tmp_path, f"info a.npy {gone}") == (4 if lost else 0)


@full
def test_a_summary_that_is_lost_is_told_of(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), "u1"))
    assert shell(tmp_path, "info a.npy --json >/dev/full 2>told") == 4
    assert "is done, but cannot be printed (No space left on device)" in (tmp_path / "told").read_text()


def test_a_line_of_error_keeps_the_blanks_of_a_path(capsys) -> None:
    complain("/data/a  b is no\nvolume")
    assert capsys.readouterr().err == "connectoscope: /data/a  b is no volume\n"


def test_a_quick_command_that_is_terminated_is_cancelled(tmp_path: Path, capsys, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8), "u1"))
    monkeypatch.setattr(
        "connectoscope.tasks.info._statistics", lambda _: os.kill(os.getpid(), signal.SIGTERM)
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.run(["info", str(tmp_path / "a.npy")]) == 3
    assert "cancelled" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]
    assert signal.getsignal(signal.SIGTERM) is before
