"""Statistics of the largest numbers that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from connectoscope import cli


@pytest.mark.filterwarnings("error")
def test_a_mean_that_overflows_is_unknown(tmp_path: Path, capsys) -> None:
    values = np.full((2, 4, 4), np.finfo(float).max)
    values[0] = np.finfo(float).min
    values[0, 0] = np.finfo(float).max
    np.save(tmp_path / "a.npy", values)
    assert cli.run(["info", str(tmp_path / "a.npy")]) == 0
    assert "mean unknown" in capsys.readouterr().out
