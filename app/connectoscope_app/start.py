"""How the window starts: ``connectoscope-desktop [PATH…]``, and the entry point that ``connectoscope`` finds.

Importing napari takes seconds, so a small card is shown before it and the environment is set before that.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from connectoscope_app.settings import config_folder

if TYPE_CHECKING:
    from qtpy.QtWidgets import QApplication, QLabel

    from connectoscope_app.window import MainWindow


def prepare_environment() -> None:
    """What must be set before napari or Qt is imported. What the user has set is kept."""
    os.environ.setdefault("QT_API", "pyside6")
    os.environ.setdefault("NAPARI_ASYNC", "1")  # slicing in a thread: a slow disk does not stall the window
    if "NAPARI_CONFIG" not in os.environ:  # never touch the settings of the user's own napari
        folder = config_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # a home that cannot be written: a window must not fail for its settings
            folder = Path(tempfile.mkdtemp(prefix="connectoscope-"))
        os.environ["NAPARI_CONFIG"] = str(folder / "napari.yaml")


def make_application() -> QApplication:
    """The QApplication, named and with our icon."""
    prepare_environment()
    from qtpy.QtGui import QIcon
    from qtpy.QtWidgets import QApplication

    application = QApplication.instance() or QApplication(sys.argv[:1])
    application.setApplicationName("connectoscope")
    application.setApplicationDisplayName("Connectoscope")
    application.setDesktopFileName("connectoscope")
    icon = _icon_file("connectoscope.png")
    if icon is not None:
        application.setWindowIcon(QIcon(icon))
    return application  # type: ignore[return-value]


def make_window(application: QApplication) -> MainWindow:
    """Import napari behind a splash card, then make and show the window."""
    splash = _splash()
    if splash is not None:
        splash.show()
        application.processEvents()
    from connectoscope_app.window import MainWindow

    window = MainWindow()
    window.show()
    if splash is not None:
        splash.close()
    return window


def open_window(paths: Sequence[str] = ()) -> int:
    """Open the window with these volumes and stay until it is closed; returns the exit code."""
    application = make_application()
    window = make_window(application)
    report_bugs(window)
    for path in paths:
        window.open_volume(str(path))
    return int(application.exec())


def main() -> None:
    """The GUI script ``connectoscope-desktop``."""
    sys.exit(open_window(sys.argv[1:]))


def report_bugs(window: MainWindow) -> None:
    """A bug in a slot becomes a dialog with the traceback folded away; the window lives on."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            window.close()
            return
        details = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(details)
        first = (str(error) or kind.__name__).splitlines()[0]
        window.show_error(f"something went wrong here, please report it: {first}", details)

    sys.excepthook = report


def _icon_file(name: str) -> str | None:
    from importlib.resources import files

    path = files("connectoscope_resources") / "icons" / name
    return str(path) if path.is_file() else None


def _splash() -> QLabel | None:
    """A card with the icon, since importing napari takes seconds.

    A plain label: showing a QSplashScreen waits for a second where no window manager answers.
    """
    from qtpy.QtCore import QRect, Qt
    from qtpy.QtGui import QColor, QFont, QPainter, QPixmap
    from qtpy.QtWidgets import QApplication, QLabel

    icon = _icon_file("connectoscope.png")
    if icon is None:
        return None
    card = QPixmap(420, 150)
    card.fill(QColor("#1b1f26"))
    painter = QPainter(card)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.drawPixmap(QRect(26, 27, 96, 96), QPixmap(icon))
    painter.setPen(QColor("#e9ecf1"))
    painter.setFont(QFont(painter.font().family(), 21, QFont.Weight.Light))
    painter.drawText(QRect(146, 38, 260, 44), Qt.AlignmentFlag.AlignVCenter, "Connectoscope")
    painter.setPen(QColor("#98a3b3"))
    painter.setFont(QFont(painter.font().family(), 10))
    painter.drawText(QRect(148, 84, 260, 24), Qt.AlignmentFlag.AlignVCenter, "Opening the window …")
    painter.end()
    label = QLabel()
    label.setWindowFlags(Qt.WindowType.SplashScreen | Qt.WindowType.FramelessWindowHint)
    label.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    label.setPixmap(card)
    label.move(QApplication.primaryScreen().availableGeometry().center() - card.rect().center())
    return label


if __name__ == "__main__":
    main()
