"""Starting: torch stays out of the window's process, and the user's napari settings are not touched."""

from __future__ import annotations

import os
import subprocess
import sys

from connectoscope_app import start


def test_environment_points_to_our_own_napari_settings(monkeypatch, tmp_path):
    monkeypatch.delenv("NAPARI_CONFIG")
    start.prepare_environment()
    assert os.environ["NAPARI_CONFIG"] == str(tmp_path / "config" / "napari.yaml")
    assert os.environ["NAPARI_ASYNC"] == "1"


def test_the_window_imports_no_torch():
    code = "import connectoscope_app.window, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=120).returncode == 0
