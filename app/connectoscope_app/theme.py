"""Dark and light: napari's two themes in our colours, applied to the whole window, so that docks and canvas match."""

from __future__ import annotations

from pathlib import Path

from napari._qt.qt_resources import get_stylesheet
from napari.resources._icons import _theme_path
from napari.settings import get_settings
from napari.utils.theme import Theme, _themes, get_system_theme, get_theme
from qtpy.QtCore import QDir
from qtpy.QtGui import QColor, QPalette
from qtpy.QtWidgets import QWidget

STYLE = Path(__file__).with_name("style.qss")

COLOURS = {
    "dark": {
        "canvas": "#0b0d10",
        "console": "#14171c",
        "background": "#1b1f26",
        "foreground": "#252b34",
        "primary": "#343c48",
        "secondary": "#4d5868",
        "highlight": "#5b687a",
        "text": "#e9ecf1",
        "warning": "#e3b341",
        "error": "#e5534b",
        "current": "#1f7f8c",
    },
    "light": {
        "canvas": "#eef0f2",
        "console": "#ffffff",
        "background": "#f6f7f8",
        "foreground": "#e9ecef",
        "primary": "#dbe0e6",
        "secondary": "#b9c2cd",
        "highlight": "#c5ced9",
        "text": "#1d2430",
        "warning": "#9a6700",
        "error": "#c93c37",
        "current": "#8fd3da",
    },
}
"""Colours by napari's names (``foreground`` is what docks stand on, ``current`` the accent)."""


def register_themes() -> None:
    """Give napari's dark and light our colours in this process.

    Its names are kept, so that its settings file stays valid without us; so are its icon colours, because the
    coloured icons lie in a cache that other napari programs share.
    """
    for kind, colours in COLOURS.items():
        _themes[kind] = Theme(**{**get_theme(kind).model_dump(), **colours})
        folder = str(_theme_path(kind))
        if folder not in QDir.searchPaths(f"theme_{kind}"):
            QDir.addSearchPath(f"theme_{kind}", folder)  # set… refuses the underscore in napari's name


def resolve_kind(choice: str) -> str:
    """'dark' or 'light' for a choice that may be 'system'."""
    return get_system_theme() if choice == "system" else choice


def apply_theme(window: QWidget, choice: str) -> str:
    """Style ``window`` and everything in it; returns the napari theme's name for the viewers."""
    kind = resolve_kind(choice)
    get_settings().appearance.theme = kind  # icons and pop-ups of napari's widgets ask here
    colours = COLOURS[kind]
    palette = QPalette(window.palette())
    for role, key in (
        (QPalette.ColorRole.Window, "background"),
        (QPalette.ColorRole.Base, "console"),
        (QPalette.ColorRole.Button, "primary"),
        (QPalette.ColorRole.Highlight, "current"),
        (QPalette.ColorRole.Text, "text"),
        (QPalette.ColorRole.WindowText, "text"),
        (QPalette.ColorRole.ButtonText, "text"),
        (QPalette.ColorRole.PlaceholderText, "secondary"),
    ):
        palette.setColor(role, QColor(colours[key]))
    window.setPalette(palette)
    window.setStyleSheet(get_stylesheet(kind, extra=[str(STYLE)]))
    return kind
