"""A tiny model of X-ray to EM, trained once for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_tissue import RECIPE, write_em

from connectoscope.jobs.context import Context
from connectoscope.tasks.train import Train, run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with recipe, EM and the bundle ``tiny-xray``."""
    folder = tmp_path_factory.mktemp("xray")
    write_em(folder)
    (folder / "tiny.toml").write_text(RECIPE)
    before = os.environ.get("CONNECTOSCOPE_DATA")
    os.environ["CONNECTOSCOPE_DATA"] = str(folder)
    try:
        asked = Train(recipe=str(folder / "tiny.toml"), destination=str(folder / "tiny-xray"))
        run(asked, Context.local(folder / "job", threads=1))
    finally:
        os.environ.pop("CONNECTOSCOPE_DATA")
        if before is not None:
            os.environ["CONNECTOSCOPE_DATA"] = before
    return folder
