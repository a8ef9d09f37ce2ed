"""The bundled samples as the window shows them."""

from __future__ import annotations

import json
from pathlib import Path

from connectoscope.volumes.samples import PREFIX, sample_names, sample_path


def bundled_samples() -> list[tuple[str, str]]:
    """``(source, title)`` of every sample; the title is the one in its metadata."""
    return [(PREFIX + name, _title(sample_path(name), name)) for name in sample_names()]


def _title(folder: Path, name: str) -> str:
    try:
        attributes = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        return str(attributes["connectoscope"]["sample"]["title"])
    except (OSError, ValueError, KeyError, TypeError):
        return name
