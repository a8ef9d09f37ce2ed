"""What an empty window shows: drop a volume here, or begin with a sample."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

_MOST_CARDS = 6


class WelcomePage(QWidget):
    """Covers the empty viewer. ``chosen`` carries a source; the other signals ask for a dialog."""

    chosen = Signal(str)
    file_wanted = Signal()
    folder_wanted = Signal()
    url_wanted = Signal()

    def __init__(self, icon: QIcon, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("welcome")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        picture = QLabel()
        picture.setPixmap(icon.pixmap(96, 96))
        title = QLabel("Drop a volume here")
        title.setObjectName("welcomeTitle")
        hint = QLabel(
            "OME-Zarr, N5, precomputed, TIFF, HDF5, MRC, NIfTI and more: a file, a folder or a web address of any size.\n"
            "Only what you look at is read."
        )
        hint.setObjectName("welcomeHint")
        hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        hint.setWordWrap(True)
        buttons = QHBoxLayout()
        buttons.setSpacing(10)
        buttons.addStretch(1)
        for text, tip, signal in (
            ("Open f&ile…", "Open a TIFF, HDF5, MRC, NRRD, NIfTI or NumPy file (Ctrl+O)", self.file_wanted),
            (
                "Open fo&lder…",
                "Open an OME-Zarr, N5 or precomputed volume, or a folder of images (Ctrl+Shift+O)",
                self.folder_wanted,
            ),
            ("Open &URL…", "Open a volume on the web (Ctrl+U)", self.url_wanted),
        ):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(signal.emit)
            buttons.addWidget(button)
        buttons.addStretch(1)
        self._heading = QLabel("or begin with a sample")
        self._heading.setObjectName("welcomeHint")
        self._cards = QGridLayout()
        self._cards.setSpacing(10)
        cards = QHBoxLayout()
        cards.addStretch(1)
        cards.addLayout(self._cards)
        cards.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(30, 30, 30, 30)
        layout.setSpacing(12)
        layout.addStretch(2)
        for widget in (picture, title):
            layout.addWidget(widget, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addWidget(hint)
        layout.addSpacing(6)
        layout.addLayout(buttons)
        layout.addSpacing(20)
        layout.addWidget(self._heading, 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addLayout(cards)
        layout.addStretch(3)

    def set_samples(self, samples: Sequence[tuple[str, str]]) -> None:
        """Cards for ``(source, title)``."""
        while self._cards.count():
            self._cards.takeAt(0).widget().deleteLater()
        self._heading.setVisible(bool(samples))
        for place, (source, title) in enumerate(samples[:_MOST_CARDS]):
            card = QPushButton(f"{title}\n{source}")
            card.setObjectName("welcomeCard")
            card.setMinimumSize(215, 62)
            card.setToolTip(f"Open the bundled sample {title}: {source}")
            card.clicked.connect(lambda _=False, s=source: self.chosen.emit(s))
            self._cards.addWidget(card, *divmod(place, 2))

    def set_drag(self, over: bool) -> None:
        """Mark the page while something that can be opened is held over the window."""
        self.setProperty("drag", over)
        self.style().unpolish(self)
        self.style().polish(self)
