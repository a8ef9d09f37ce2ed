"""What tests of several subjects need."""

from __future__ import annotations

import pytest
from tiny_recipe import write_discs


@pytest.fixture
def discs(tmp_path, monkeypatch):
    """The discs where recipes look for data."""
    write_discs(tmp_path)
    monkeypatch.setenv("CONNECTOSCOPE_DATA", str(tmp_path))
