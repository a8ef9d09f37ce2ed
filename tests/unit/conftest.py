"""Data that trainings of several rooms learn from."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile


@pytest.fixture
def discs(tmp_path, monkeypatch):
    """Bright discs on noise, ``raw.ome.tif`` and ``labels.ome.tif``, where recipes look for data."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    labels = np.zeros((10, 64, 64), np.uint8)
    for cy, cx in rng.integers(8, 56, (6, 2)):
        labels[:, (y - cy) ** 2 + (x - cx) ** 2 < 30] = 1
    raw = np.clip(rng.normal(80 + 80 * labels, 20), 0, 255).astype(np.uint8)
    facts = {"axes": "ZYX", "PhysicalSizeX": 8, "PhysicalSizeY": 8, "PhysicalSizeZ": 40}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "XYZ"}
    for name, data in (("raw", raw), ("labels", labels)):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", data, metadata=facts | units)
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
