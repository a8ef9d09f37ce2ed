"""The small sample volumes that come with the program: ``sample:NAME``."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from connectoscope.errors import UserError

PREFIX = "sample:"
_SUFFIX = ".ome.zarr"


def _folder() -> Path:
    # Wheels are unpacked on installation, so the resources are always files.
    return Path(str(importlib.resources.files("connectoscope_resources"))) / "samples"


def sample_names() -> tuple[str, ...]:
    """Names of the bundled samples, in alphabetical order."""
    return tuple(sorted(p.name.removesuffix(_SUFFIX) for p in _folder().glob("*" + _SUFFIX)))


def sample_path(name: str) -> Path:
    """The folder of the sample ``name`` (with or without ``sample:``).

    Raises:
        UserError: there is none of that name.
    """
    name = name.removeprefix(PREFIX)
    if name not in sample_names():
        raise UserError(
            f"there is no sample '{name}'; samples are {', '.join(sample_names()) or 'not installed'}"
        )
    return _folder() / (name + _SUFFIX)
