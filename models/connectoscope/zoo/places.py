"""Where models lie, and what a user calls them by."""

from __future__ import annotations

import os
import tempfile
from importlib import resources
from pathlib import Path

import platformdirs

from connectoscope.paths import exists, expanded, is_bare
from connectoscope.zoo.card import CARD


def user_models() -> Path:
    """Where the user's own models lie: ``CONNECTOSCOPE_MODELS``, by default in the user's data folder."""
    named = os.environ.get("CONNECTOSCOPE_MODELS")
    if named:
        return Path(named)
    try:
        data = Path(platformdirs.user_data_dir("connectoscope", False))
    except RuntimeError:  # a user id without a home, as containers have them
        data = Path(tempfile.gettempdir(), f"connectoscope-{os.getuid()}")
    return data / "models"


def bundled_models() -> Path:
    return Path(str(resources.files("connectoscope_resources") / "models"))


def new_model(name: str) -> Path:
    """Where a model that is to be made belongs: a bare name means a folder among the user's own models."""
    if is_bare(name):
        return (user_models() / name).absolute()
    return expanded(name)


def is_own(path: Path) -> bool:
    """Whether it is a place among the user's own models."""
    return path.resolve().parent == user_models().resolve()


def reference(path: Path) -> str:
    """What a user calls the model at ``path`` by: see :attr:`Bundle.reference`."""
    if is_own(path):
        return path.name
    return f"./{path}" if path.name == str(path) else str(path)  # a bare name would be another model


def named_model(name: str) -> Path | None:
    """The folder of the user's, else of the bundled model of that name; None where there is none, or it is a path."""
    if not is_bare(name):  # "./name" and "name/" are paths
        return None
    folders = (folder / name for folder in (user_models(), bundled_models()))
    return next((folder for folder in folders if exists(folder / CARD)), None)
