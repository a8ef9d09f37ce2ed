"""Everything that the window can be asked to do, declared once: menus, tool tips, short cuts and palette follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from qtpy.QtGui import QAction, QKeySequence
from qtpy.QtWidgets import QMainWindow, QMenu

from connectoscope.errors import UserError

MENUS = ("File", "View", "Detect", "Segment", "Reconstruct", "Adapt", "Models", "Tools", "Help")
"""The menu bar, in order. A menu with nothing in it is not shown."""


@dataclass(frozen=True)
class Command:
    """One thing the window can do. ``menu`` is a path: ``"File"`` or ``"File/Open Sample"``."""

    menu: str
    title: str
    tooltip: str
    run: Callable[[], object]
    shortcut: str = ""
    group: int = 0  # a separator stands where it changes
    checked: Callable[[], bool] | None = None  # a toggle: what it shows when the menu opens

    @property
    def palette_text(self) -> str:
        """``Segment: Synapses``, as the palette shows it."""
        return f"{self.menu.replace('/', ' · ')}: {self.title.rstrip('…').replace('&&', '&')}"


class Commands:
    """The window's commands, as menus and as a list for the palette.

    Args:
        window: Gets the menu bar and, so that short cuts work everywhere, every action.
        on_error: Shows a :class:`UserError` that a command raises.
    """

    def __init__(self, window: QMainWindow, on_error: Callable[[str], None]) -> None:
        self._window = window
        self._on_error = on_error
        self._groups: dict[str, list[Command]] = {}
        self._actions: dict[Command, QAction] = {}
        self._menus: dict[str, QMenu] = {}
        for name in MENUS:
            self._menus[name] = window.menuBar().addMenu(f"&{name}")
            self._menus[name].setToolTipsVisible(True)
            self._menus[name].aboutToShow.connect(self._refresh_checks)

    def replace(self, owner: str, commands: list[Command]) -> None:
        """Set the commands of ``owner`` (for example ``"recent"``) and rebuild the menus."""
        for old in self._groups.get(owner, []):
            action = self._actions.pop(old)
            self._window.removeAction(action)
            action.deleteLater()
        self._groups[owner] = list(commands)
        for command in commands:
            action = QAction(command.title, self._window)
            action.setToolTip(command.tooltip)
            action.setStatusTip(command.tooltip)
            if command.shortcut:
                action.setShortcut(QKeySequence(command.shortcut))
            if command.checked is not None:
                action.setCheckable(True)
                action.setChecked(command.checked())
            action.triggered.connect(partial(self.trigger, command))
            self._window.addAction(action)
            self._actions[command] = action
        self._rebuild()

    def __iter__(self) -> Iterator[Command]:
        for commands in self._groups.values():
            yield from commands

    def action(self, command: Command) -> QAction:
        return self._actions[command]

    def find(self, menu: str, title: str) -> Command:
        """The command of that menu and title (KeyError when there is none)."""
        for command in self:
            if (command.menu, command.title.rstrip("…")) == (menu, title.rstrip("…")):
                return command
        raise KeyError(f"{menu}: {title}")

    def trigger(self, command: Command, *_: object) -> None:
        """Run it; a user's error becomes the error dialog."""
        try:
            command.run()
        except UserError as error:
            self._on_error(str(error))
        self._refresh_checks()

    def _rebuild(self) -> None:
        for menu in self._menus.values():
            menu.clear()
        submenus: dict[str, QMenu] = {}
        last_group: dict[str, int] = {}
        for command in sorted(self, key=lambda c: c.group):  # stable: order of declaration within a group
            top, _, sub = command.menu.partition("/")
            menu = self._menus[top]
            if last_group.setdefault(top, command.group) != command.group:
                menu.addSeparator()
                last_group[top] = command.group
            if sub:
                if command.menu not in submenus:
                    submenus[command.menu] = menu.addMenu(sub)
                    submenus[command.menu].setToolTipsVisible(True)
                menu = submenus[command.menu]
            menu.addAction(self._actions[command])
        for menu in self._menus.values():
            menu.menuAction().setVisible(not menu.isEmpty())

    def _refresh_checks(self) -> None:
        for command, action in self._actions.items():
            if command.checked is not None:
                action.setChecked(command.checked())
