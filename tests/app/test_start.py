"""Starting: torch stays out of the window's process, and the user's napari settings are not touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from connectoscope_app import start


def test_environment_points_to_our_own_napari_settings(monkeypatch, tmp_path):
    monkeypatch.delenv("NAPARI_CONFIG")
    start.prepare_environment()
    assert os.environ["NAPARI_CONFIG"] == str(tmp_path / "config" / "napari.yaml")
    assert os.environ["NAPARI_ASYNC"] == "1"


def test_a_home_that_cannot_be_written_does_not_keep_the_window_shut(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(start, "config_folder", lambda: tmp_path / "file" / "connectoscope")
    monkeypatch.delenv("NAPARI_CONFIG")
    start.prepare_environment()
    assert os.access(Path(os.environ["NAPARI_CONFIG"]).parent, os.W_OK)


def test_the_window_imports_no_torch():
    code = "import connectoscope_app.window, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120).returncode == 0
