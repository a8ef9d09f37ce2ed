"""Dialogs of the window: an error that says what to do, About, a URL to open."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePath

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QFontDatabase, QGuiApplication, QIcon
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QStyle,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from connectoscope.volumes.stores import is_url


def _buttons(which: QDialogButtonBox.StandardButton) -> QDialogButtonBox:
    """Without the desktop's own pictures, which fit no theme of ours."""
    box = QDialogButtonBox(which)
    for button in box.buttons():
        button.setIcon(QIcon())
    return box


def _lay_out(dialog: QDialog, *widgets: QWidget) -> None:
    """A dialog that opens something: these among each other, and Open and Cancel below."""
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.setMinimumWidth(520)
    buttons = _buttons(QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel)
    buttons.accepted.connect(dialog.accept)
    buttons.rejected.connect(dialog.reject)
    layout = QVBoxLayout(dialog)
    layout.setContentsMargins(20, 18, 20, 14)
    layout.setSpacing(12)
    for widget in (*widgets, buttons):
        layout.addWidget(widget)


class ErrorDialog(QDialog):
    """One clear line, what to do, and the details folded away.

    Args:
        text: ``"what is wrong: what to do"``; the part before the first colon or semicolon needs no markup.
        details: Anything longer (a log's end, a traceback); '' shows no button.
    """

    def __init__(self, text: str, details: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Connectoscope")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(460)
        self.line = QLabel(text)  # as it is: it may begin with the name of a file
        self.line.setWordWrap(True)
        self.line.setTextFormat(Qt.TextFormat.PlainText)
        self.line.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        picture = QLabel()
        picture.setPixmap(
            self.style().standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning).pixmap(36, 36)
        )
        top = QHBoxLayout()
        top.setSpacing(14)
        top.addWidget(picture, 0, Qt.AlignmentFlag.AlignTop)
        top.addWidget(self.line, 1)
        self.details = QPlainTextEdit(details)
        self.details.setReadOnly(True)
        self.details.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.details.setMinimumHeight(180)
        self.details.hide()
        buttons = _buttons(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.close)
        if details:
            more = buttons.addButton("Details", QDialogButtonBox.ButtonRole.ActionRole)
            more.setCheckable(True)
            more.toggled.connect(self._unfold)
            copy = buttons.addButton("Copy", QDialogButtonBox.ButtonRole.ActionRole)
            copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(f"{text}\n\n{details}"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(20, 18, 20, 14)
        layout.setSpacing(14)
        layout.addLayout(top)
        layout.addWidget(self.details)
        layout.addWidget(buttons)

    def _unfold(self, shown: bool) -> None:
        self.details.setVisible(shown)
        self.adjustSize()


class AboutDialog(QDialog):
    """Name, versions and the device found, with a button that copies them."""

    def __init__(self, lines: list[tuple[str, str]], icon: QIcon, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("About Connectoscope")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        picture = QLabel()
        picture.setPixmap(icon.pixmap(88, 88))
        title = QLabel("Connectoscope")
        title.setObjectName("welcomeTitle")
        motto = QLabel("A desktop microscope for volumes that do not fit in memory.")
        motto.setWordWrap(True)
        facts = QLabel("\n".join(f"{name}: {value}" for name, value in lines))
        facts.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.facts = facts
        copy = QPushButton("Copy diagnostics")
        copy.clicked.connect(lambda: QGuiApplication.clipboard().setText(facts.text()))
        close = QPushButton("Close")
        close.setDefault(True)
        close.clicked.connect(self.close)
        bottom = QHBoxLayout()
        bottom.addStretch(1)
        bottom.addWidget(copy)
        bottom.addWidget(close)
        column = QVBoxLayout()
        column.setSpacing(8)
        for widget in (title, motto, facts):
            column.addWidget(widget)
        top = QHBoxLayout()
        top.setSpacing(20)
        top.addWidget(picture, 0, Qt.AlignmentFlag.AlignTop)
        top.addLayout(column, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 22, 24, 16)
        layout.setSpacing(18)
        layout.addLayout(top)
        layout.addLayout(bottom)


class UrlDialog(QDialog):
    """Asks for the address of a volume on the web."""

    def __init__(self, opened: Callable[[str], None], parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Open URL")
        self._opened = opened
        hint = QLabel(
            "Address of an OME-Zarr, N5 or Neuroglancer precomputed volume (https://, s3:// or gs://). "
            "Only the blocks that you look at are fetched."
        )
        hint.setWordWrap(True)
        self.address = QLineEdit()
        self.address.setPlaceholderText("https://example.org/volume.ome.zarr")
        self.address.setAccessibleName("Address")
        pasted = QGuiApplication.clipboard().text().strip()
        if is_url(pasted) and not any(c.isspace() for c in pasted):
            self.address.setText(pasted)
            self.address.selectAll()
        _lay_out(self, hint, self.address)

    def accept(self) -> None:
        address = unquoted(self.address.text())
        if address:
            super().accept()
            self._opened(address)


def unquoted(text: str) -> str:
    """A path or address as it was copied: without quotes, and ``file://`` as the path that it means."""
    text = re.sub(r"""^(["'])(.*)\1$""", r"\2", text.strip())
    return QUrl(text).toLocalFile() if text.lower().startswith("file://") else text


class VolumeChoice(QDialog):
    """Asks which of several volumes in one file to open.

    Args:
        name: Of the file, for people.
        choices: Source and what it is, of each.
        opened: Called with the source that was chosen.
    """

    def __init__(
        self, name: str, choices: Sequence[tuple[str, str]], opened: Callable[[str], None], parent: QWidget
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Choose a volume")
        self._opened = opened
        hint = QLabel(f"{name} holds several volumes. Which one?")
        hint.setWordWrap(True)
        self.list = QTreeWidget()
        self.list.setHeaderLabels(["Volume", "Shape and type"])
        self.list.setRootIsDecorated(False)
        self.list.setAccessibleName("Volumes in the file")
        for source, what in choices:
            item = QTreeWidgetItem(self.list, [source.partition("::")[2] or PurePath(source).name, what])
            item.setData(0, Qt.ItemDataRole.UserRole, source)
        self.list.setCurrentItem(self.list.topLevelItem(0))
        self.list.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.list.itemDoubleClicked.connect(lambda *_: self.accept())
        _lay_out(self, hint, self.list)

    def accept(self) -> None:
        super().accept()
        self._opened(self.list.currentItem().data(0, Qt.ItemDataRole.UserRole))
