"""The volume browser: samples and recent volumes, and what the opened one is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QSplitter,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from connectoscope.errors import UserError
from connectoscope.volumes import Level, Volume
from connectoscope.volumes.geometry import parse_voxel_size, unit_symbol


def file_name(source: str) -> str:
    """The last part of a path or URL, with the dataset inside it."""
    path, inside, dataset = source.partition("::")
    name = PurePath(path.rstrip("/\\")).name or source
    return f"{name} {dataset}" if inside else name


class VolumeBrowser(QWidget):
    """``open_wanted`` carries a source; ``reopen_wanted`` the choices to open the shown volume with."""

    open_wanted = Signal(str)
    reopen_wanted = Signal(dict)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.setMinimumWidth(200)
        self.tree = QTreeWidget()
        self.tree.setHeaderHidden(True)
        self.tree.setRootIsDecorated(False)
        self.tree.setIndentation(10)
        self.tree.setAccessibleName("Samples and recent volumes")
        self.tree.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self._samples = self._group("Samples")
        self._recent = self._group("Recent")
        self.tree.itemClicked.connect(self._activate)
        # Not itemActivated, which would open twice what is double-clicked.
        for key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            enter = QShortcut(QKeySequence(key), self.tree, context=Qt.ShortcutContext.WidgetShortcut)
            enter.activated.connect(lambda: self._activate(self.tree.currentItem()))
        self.details = VolumeDetails()
        self.details.reopen_wanted.connect(self.reopen_wanted)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setWidget(self.details)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.addWidget(self.tree)
        splitter.addWidget(scroll)
        splitter.setSizes([230, 470])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 4, 8)
        layout.addWidget(splitter)
        self.setFocusProxy(self.tree)

    def set_samples(self, samples: Sequence[tuple[str, str]]) -> None:
        """Entries for ``(source, title)``."""
        self._fill(self._samples, [(source, f"{title}\n{source}") for source, title in samples])

    def set_recent(self, sources: Sequence[str]) -> None:
        self._fill(self._recent, [(source, file_name(source)) for source in sources])

    def _group(self, title: str) -> QTreeWidgetItem:
        item = QTreeWidgetItem(self.tree, [title])
        item.setFlags(Qt.ItemFlag.ItemIsEnabled)
        font = item.font(0)
        font.setBold(True)
        item.setFont(0, font)
        item.setExpanded(True)
        return item

    def _fill(self, group: QTreeWidgetItem, entries: Sequence[tuple[str, str]]) -> None:
        group.takeChildren()
        for source, text in entries:
            item = QTreeWidgetItem(group, [text])
            item.setData(0, Qt.ItemDataRole.UserRole, source)
            item.setToolTip(0, source)
        group.setHidden(not entries)
        group.setExpanded(True)

    def _activate(self, item: QTreeWidgetItem | None) -> None:
        if item is not None and (source := item.data(0, Qt.ItemDataRole.UserRole)):
            self.open_wanted.emit(source)


class VolumeDetails(QWidget):
    """Levels, voxel size, channels and warnings of one volume; asks for a voxel size where none is known."""

    reopen_wanted = Signal(dict)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.volume: Volume | None = None
        self._layout = QVBoxLayout(self)
        self._layout.setContentsMargins(2, 6, 4, 2)
        self._layout.setSpacing(8)
        self._content: QWidget | None = None
        self.voxel_size: QLineEdit | None = None
        self.show_volume(None)

    def show_volume(self, volume: Volume | None) -> None:
        """Describe ``volume`` (None: nothing is open)."""
        self.volume = volume
        if self._content is not None:
            self._layout.removeWidget(self._content)
            self._content.hide()  # it is deleted later, and would shine through until then
            self._content.deleteLater()
        self.voxel_size = None
        self._content = QWidget()
        column = QVBoxLayout(self._content)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        if volume is None:
            empty = _label("No volume is open.")
            empty.setObjectName("muted")
            column.addWidget(empty)
        else:
            self._describe(volume, column)
        column.addStretch(1)
        self._layout.addWidget(self._content)

    def _describe(self, volume: Volume, column: QVBoxLayout) -> None:
        name = _label(re.sub(r"([_.-])", "\\1\u200b", volume.name))  # a long name can be broken there
        name.setObjectName("heading")
        name.setToolTip(volume.source)
        column.addWidget(name)
        if volume.unit is None:
            column.addWidget(self._ask_voxel_size())
        # What is asked for just above, or chosen just below, needs no hint at the terminal's option.
        asked = ("--channel", "--time", *(("--voxel-size",) if volume.unit is None else ()))
        warnings = [w for w in volume.warnings if not any(option in w for option in asked)]
        if warnings:
            column.addWidget(_banner("\n".join(_without_name(w, volume) for w in warnings)))
        facts = QFormLayout()
        facts.setContentsMargins(0, 0, 0, 0)
        facts.setHorizontalSpacing(14)
        facts.setVerticalSpacing(5)
        facts.addRow("Format", _label(volume.format))
        shape = _label(_times(volume.shape))
        shape.setToolTip("Voxels along z, y, x")
        facts.addRow("Shape", shape)
        facts.addRow("Voxel", _label(voxel_text(volume, volume.levels[0])))
        facts.addRow("Type", _label(f"{volume.dtype}, axes {volume.axes}"))
        if len(volume.channels) > 1:
            facts.addRow("Channel", self._channel_choice(volume))
        if volume.times > 1:
            facts.addRow("Time", self._time_choice(volume))
        column.addLayout(facts)
        column.addLayout(_level_lines(volume))

    def _ask_voxel_size(self) -> QWidget:
        banner = _banner("The file does not state its voxel size. Enter it, so that sizes and models fit:")
        row = QHBoxLayout()
        field = QLineEdit()
        field.setPlaceholderText("z,y,x with unit, e.g. 40,4,4nm")
        field.setAccessibleName("Voxel size")
        field.setToolTip("Voxel size z,y,x with its unit; one number stands for all three")
        apply = QPushButton("Apply")
        row.addWidget(field, 1)
        row.addWidget(apply)
        problem = _label("")
        problem.hide()

        def take() -> None:
            try:
                parse_voxel_size(field.text())
            except UserError as error:
                problem.setText(str(error))
                problem.show()
            else:
                self.reopen_wanted.emit({"voxel_size": field.text().strip()})

        apply.clicked.connect(take)
        field.returnPressed.connect(take)
        layout = banner.layout()
        layout.addLayout(row)
        layout.addWidget(problem)
        self.voxel_size = field
        return banner

    def _channel_choice(self, volume: Volume) -> QComboBox:
        choice = QComboBox()
        choice.addItems(list(volume.channels))
        choice.setCurrentIndex(volume.channel or 0)
        choice.setToolTip("Show another channel of this volume")
        choice.activated.connect(lambda index: self.reopen_wanted.emit({"channel": int(index)}))
        return choice

    def _time_choice(self, volume: Volume) -> QSpinBox:
        choice = QSpinBox()
        choice.setRange(0, volume.times - 1)
        choice.setValue(volume.time or 0)
        choice.setKeyboardTracking(False)
        choice.setToolTip("Show another time point of this volume")
        choice.valueChanged.connect(lambda index: self.reopen_wanted.emit({"time": int(index)}))
        return choice


def _without_name(warning: str, volume: Volume) -> str:
    """A warning as a sentence under the volume's name, which it need not say again."""
    said = warning.removeprefix(volume.source).lstrip(" :")
    return said[:1].upper() + said[1:]


def for_people(warning: str) -> str:
    """Without the hints at options of the terminal."""
    return re.sub(r" \([^()]*--[a-z][^()]*\)", "", warning)


def with_voxel_size(volume: Volume, voxel_size: str) -> Volume:
    """A volume as it were if it had been opened with ``voxel_size``; the same one where it was."""
    size, unit = parse_voxel_size(voxel_size)
    first = volume.levels[0].scale
    if (size, unit) == (first, volume.unit):
        return volume
    factors = tuple(new / old for new, old in zip(size, first, strict=True))

    def times(values: Sequence[float]) -> tuple[float, float, float]:
        z, y, x = (value * factor for value, factor in zip(values, factors, strict=True))
        return z, y, x

    levels = [
        replace(level, scale=times(level.scale), translation=times(level.translation))
        for level in volume.levels
    ]
    known = tuple(w for w in volume.warnings if "--voxel-size" not in w)
    return replace(volume, levels=tuple(levels), unit=unit, warnings=known)


def voxel_text(volume: Volume, level: Level) -> str:
    """``50 × 4.6 × 4.6 nm``, or that it is unknown."""
    if volume.unit is None:
        return "size unknown"
    return " × ".join(f"{n:.4g}" for n in level.scale) + f" {unit_symbol(volume.unit)}"


def _level_lines(volume: Volume) -> QGridLayout:
    """One line a level: number, shape, voxel size."""
    grid = QGridLayout()
    grid.setHorizontalSpacing(8)
    grid.setVerticalSpacing(3)
    voxel = "" if volume.unit is None else f"voxel ({unit_symbol(volume.unit)})"
    lines = [("level", "shape", voxel, "Axes z, y, x")]
    for number, level in enumerate(volume.levels):
        size = "" if volume.unit is None else " × ".join(f"{n:.4g}" for n in level.scale)
        lines.append(
            (str(number), _times(level.shape), size, f"Read in chunks of {_times(level.chunks)} voxels")
        )
    for row, (*texts, tip) in enumerate(lines):
        for column, text in enumerate(texts):
            cell = QLabel(text)
            cell.setObjectName("small")
            cell.setToolTip(tip)
            cell.setWordWrap(column > 0)  # in a narrow panel, rather than be cut
            cell.setAlignment(Qt.AlignmentFlag.AlignTop)
            grid.addWidget(cell, row, column)
    grid.setColumnStretch(2, 1)
    return grid


def _times(numbers: Sequence[int]) -> str:
    return " × ".join(f"{n:,}".replace(",", "\u202f") for n in numbers)


def _label(text: str) -> QLabel:
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def _banner(text: str) -> QFrame:
    frame = QFrame()
    frame.setObjectName("banner")
    layout = QVBoxLayout(frame)
    layout.setContentsMargins(10, 8, 10, 8)
    layout.addWidget(_label(text))
    return frame
