"""A fresh configuration for every test, one window, and no widget left behind."""

from __future__ import annotations

import gc
import os

import pytest

# Before anything of napari or Qt is imported; every test moves both to a folder of its own.
os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("NAPARI_ASYNC", "1")


@pytest.fixture(autouse=True)
def fresh_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("CONNECTOSCOPE_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari.yaml"))
    import napari.settings

    monkeypatch.setattr(napari.settings, "_SETTINGS", None)


@pytest.fixture
def make_window(qtbot, fresh_configuration):
    """Makes shown windows, closes them at the end and checks that nothing is left of them."""
    from qtpy.compat import isalive
    from qtpy.QtCore import QCoreApplication, QEvent
    from qtpy.QtWidgets import QApplication

    from connectoscope_app.window import MainWindow

    before = set(QApplication.topLevelWidgets())
    windows = []

    def make(**options):
        window = MainWindow(**options)
        window.show()
        qtbot.waitExposed(window)
        windows.append(window)
        return window

    yield make
    for window in windows:
        if isalive(window):
            window.close()
    windows.clear()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()
    left = set(QApplication.topLevelWidgets()) - before
    assert not left, f"widgets left behind: {left}"


@pytest.fixture
def window(make_window):
    return make_window()


@pytest.fixture
def volume_file(tmp_path):
    """A small OME-TIFF with voxel size: (4, 32, 48) uint8, 40 x 4 x 4 nm."""
    import numpy as np
    import tifffile

    path = tmp_path / "small.ome.tif"
    data = np.random.default_rng(0).integers(0, 255, (4, 32, 48), dtype=np.uint8)
    metadata = {"axes": "ZYX"} | {f"PhysicalSize{a}": s for a, s in zip("ZYX", (40, 4, 4), strict=True)}
    metadata |= {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
    tifffile.imwrite(path, data, metadata=metadata, ome=True)
    return path
