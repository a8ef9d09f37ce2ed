"""What the window remembers between two starts: one JSON file, versioned.

A key that cannot be read is dropped with a warning and the others are kept; a file of another version is not
read, and is replaced at the next save.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, ValidationError
from qtpy.QtCore import QByteArray
from qtpy.QtWidgets import QMainWindow

VERSION = 1
MOST_RECENT = 12  # entries kept under Open Recent
MOST_JOBS = 40  # entries kept in the jobs panel


class Settings(BaseModel):
    """Everything remembered. ``geometry`` and ``layout`` are Qt's own bytes in base64."""

    model_config = ConfigDict(validate_assignment=True, extra="forbid")

    theme: Literal["dark", "light", "system"] = "dark"
    geometry: str = ""
    layout: str = ""
    recent: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    last_folder: str = ""

    def remember_volume(self, source: str) -> None:
        self.recent = (source, *(s for s in self.recent if s != source))[:MOST_RECENT]

    def forget_volume(self, source: str) -> None:
        self.recent = tuple(s for s in self.recent if s != source)

    def remember_job(self, folder: str) -> None:
        self.jobs = (folder, *(f for f in self.jobs if f != folder))[:MOST_JOBS]

    def forget_job(self, folder: str) -> None:
        self.jobs = tuple(f for f in self.jobs if f != folder)

    def keep_layout(self, window: QMainWindow, version: int) -> None:
        """Where ``window`` and its docks are."""
        geometry, layout = (
            bytes(b.toBase64().data()).decode() for b in (window.saveGeometry(), window.saveState(version))
        )
        self.geometry, self.layout = geometry, layout

    def restore_layout(self, window: QMainWindow, version: int) -> None:
        """Put ``window`` and its docks where they were, as far as that is known."""
        geometry, layout = (
            QByteArray.fromBase64(text.encode("ascii", "ignore")) for text in (self.geometry, self.layout)
        )
        if geometry:
            window.restoreGeometry(geometry)
        if layout:
            window.restoreState(layout, version)


def config_folder() -> Path:
    """The user's folder for our settings; ``CONNECTOSCOPE_CONFIG`` (a folder) overrides it."""
    chosen = os.environ.get("CONNECTOSCOPE_CONFIG")
    return Path(chosen) if chosen else Path(platformdirs.user_config_dir("connectoscope", appauthor=False))


def settings_path() -> Path:
    return config_folder() / "window.json"


def load_settings(path: Path | None = None) -> tuple[Settings, list[str]]:
    """Settings from ``path`` and one warning for each key that was dropped. A missing file gives the defaults."""
    path = path or settings_path()
    settings = Settings()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return settings, []
    except (OSError, UnicodeDecodeError) as error:
        return settings, [f"settings could not be read ({error}); defaults are used"]
    try:
        stored: Any = json.loads(text)
    except ValueError:
        return settings, [f"settings in {path} are damaged; defaults are used"]
    if not isinstance(stored, dict) or stored.pop("version", None) != VERSION:
        return settings, [f"settings in {path} are of another version; defaults are used"]
    warnings = []
    for key, value in stored.items():
        try:
            setattr(settings, key, value)
        except (ValidationError, ValueError):
            warnings.append(f"setting '{key}' could not be read and was dropped")
    return settings, warnings


def save_settings(settings: Settings, path: Path | None = None) -> str | None:
    """Write atomically. Returns one line when the disk refuses: a window must not fail for its settings."""
    path = path or settings_path()
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"version": VERSION, **settings.model_dump()}, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        return f"settings could not be saved: {error.strerror or error}"
    return None
