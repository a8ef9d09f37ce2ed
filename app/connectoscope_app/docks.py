"""The panels around the viewers, and where they begin."""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow, QTabBar, QWidget

_LEFT = Qt.DockWidgetArea.LeftDockWidgetArea
_RIGHT = Qt.DockWidgetArea.RightDockWidgetArea
_BOTTOM = Qt.DockWidgetArea.BottomDockWidgetArea
_AREAS = {"Volumes": _LEFT, "Layers": _RIGHT, "Task": _RIGHT, "Patches": _RIGHT}  # the others: bottom
_TAB_GAP = 2  # pixels between a tab bar and its dock, at most


def make_docks(window: QMainWindow, contents: Mapping[str, QWidget]) -> dict[str, QDockWidget]:
    """Docks of these widgets, by name, in ``window``."""
    docks = {}
    for name, widget in contents.items():
        dock = QDockWidget(name, window)
        dock.setObjectName(f"dock-{name.lower()}")
        dock.setWidget(widget)
        area = _AREAS.get(name, _BOTTOM)
        if area == _BOTTOM:
            dock.setTitleBarWidget(QWidget(dock))  # the tab says it already
        window.addDockWidget(area, dock)
        docks[name] = dock
    window.setCorner(Qt.Corner.BottomRightCorner, _RIGHT)
    window.setCorner(Qt.Corner.BottomLeftCorner, _LEFT)
    for first, second in (("Jobs", "Objects"), ("Objects", "Plots"), ("Plots", "Log"), ("Task", "Patches")):
        window.tabifyDockWidget(docks[first], docks[second])
    window.setTabPosition(Qt.DockWidgetArea.AllDockWidgetAreas, window.tabPosition(_BOTTOM).North)
    for name in ("Task", "Jobs"):
        docks[name].raise_()
    window.resizeDocks([docks["Volumes"]], [310], Qt.Orientation.Horizontal)
    window.resizeDocks([docks["Task"]], [370], Qt.Orientation.Horizontal)
    window.resizeDocks([docks["Jobs"]], [210], Qt.Orientation.Vertical)
    window.resizeDocks([docks["Layers"], docks["Task"]], [500, 420], Qt.Orientation.Vertical)
    return docks


def hide_stray_tabs(window: QMainWindow, docks: Mapping[str, QDockWidget]) -> None:
    """Qt leaves tab bars of layouts that it gave up lying on the window; only those above a dock are in use."""
    corners = [
        dock.geometry().topLeft() for dock in docks.values() if dock.isVisible() and not dock.isFloating()
    ]
    for bar in window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly):
        corner = bar.geometry().bottomLeft()
        used = any(corner.x() == c.x() and abs(corner.y() + 1 - c.y()) <= _TAB_GAP for c in corners)
        bar.setVisible(used and bar.count() > 0)
