"""A folder of models of the test's own, with the common network in it, and made volumes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from made_domains import RECIPE, membranes, random_bundle, save, tissue

from connectoscope.adaptation.signature import write_signature
from connectoscope.jobs.context import Context
from connectoscope.tasks.train import Train
from connectoscope.tasks.train import run as train

SMALL = partial(write_signature, count=32)  # vectors, so that tests are quick


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Where models are looked for first; holds the common network."""
    folder = tmp_path / "models"
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(folder))
    random_bundle(folder / "features-em", seed=7)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model that finds dark membranes, with its signature; the folder of models that holds it."""
    folder = tmp_path_factory.mktemp("adapt")
    image, cells = tissue(1, "cells")
    save(folder / "cells.ome.tif", image)
    save(folder / "cells_labels.ome.tif", membranes(cells))
    (folder / "cells.toml").write_text(RECIPE.replace("NAME", "cells"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectoscope.training.finish.write_signature", SMALL)
        patch.setenv("CONNECTOSCOPE_DATA", str(folder))
        patch.setenv("CONNECTOSCOPE_MODELS", str(folder / "models"))
        random_bundle(folder / "models" / "features-em", seed=7)
        asked = Train(recipe=str(folder / "cells.toml"), destination=str(folder / "models" / "cells"))
        train(asked, Context.local(folder / "train.job", threads=1))
    return folder / "models"


@pytest.fixture
def target(trained, tmp_path, monkeypatch):
    """Another domain (bright membranes): raw.tif, its membranes and its cells, in tmp_path."""
    monkeypatch.setattr("connectoscope.adaptation.signature.write_signature", SMALL)
    monkeypatch.setenv("CONNECTOSCOPE_MODELS", str(trained))
    image, cells = tissue(2, "inverted")
    save(tmp_path / "raw.ome.tif", image)
    save(tmp_path / "labels.ome.tif", membranes(cells))
    save(tmp_path / "cells.ome.tif", cells.astype(np.uint16))
    return tmp_path
