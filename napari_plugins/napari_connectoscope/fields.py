"""One input widget a parameter: :func:`make_field` chooses it by the parameter's role, then by its type.

Every field is a QWidget with ``value()`` (JSON-like, None where the task decides), ``set_value()`` and the
signal ``changed``; :class:`~napari_connectoscope.forms.TaskForm` knows nothing else of it.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QDoubleValidator
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QLargeIntSpinBox

from connectoscope.tasks.base import parameter_facts

AUTOMATIC = "automatic"
_LARGEST_SPIN = 2**63 - 1
_WRITTEN_ROLES = ("destination", "new_model", "page")
_PATH_ROLES = ("recipe", "truth", "result", "source", "mask", *_WRITTEN_ROLES)


class Field(QWidget):
    """Base of all inputs: a row of widgets with one value."""

    changed = Signal()

    def __init__(self, *, vertical: bool = False) -> None:
        super().__init__()
        layout = QVBoxLayout(self) if vertical else QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self._row = layout

    def value(self) -> Any:
        raise NotImplementedError

    def set_value(self, value: Any) -> None:
        raise NotImplementedError

    def _add(self, widget: QWidget, stretch: int = 0) -> None:
        self._row.addWidget(widget, stretch)
        if stretch:
            self.setFocusProxy(widget)


class TextField(Field):
    """A line of text; empty is None where the parameter allows it."""

    def __init__(self, *, optional: bool = False, placeholder: str = "", unit: str | None = None) -> None:
        super().__init__()
        self.line = QLineEdit()
        self.line.setPlaceholderText(placeholder or (AUTOMATIC if optional else ""))
        self._optional = optional
        self._add(self.line, 1)
        if unit:
            self._add(QLabel(unit))
        self.line.textChanged.connect(self.changed)

    def value(self) -> Any:
        text = self.line.text().strip()
        return None if self._optional and not text else text

    def set_value(self, value: Any) -> None:
        self.line.setText("" if value is None else str(value))


class NumberField(TextField):
    """A number as text: takes any magnitude (1e-4, 5000000) and may be empty where it is optional."""

    def __init__(self, *, whole: bool, optional: bool, unit: str | None) -> None:
        super().__init__(optional=optional, unit=unit)
        self._whole = whole
        if not whole:
            validator = QDoubleValidator(self.line)
            validator.setLocale(validator.locale().c())  # a point is a point, in every country
            self.line.setValidator(validator)

    def value(self) -> Any:
        text = super().value()
        try:
            return int(text) if self._whole else float(text)
        except (TypeError, ValueError):
            return text  # None, or what the model will refuse with its own words

    def set_value(self, value: Any) -> None:
        super().set_value(
            f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else value
        )


class SpinField(Field):
    """A whole number with bounds."""

    def __init__(self, low: int, high: int, unit: str | None) -> None:
        super().__init__()
        self.spin = QLargeIntSpinBox()
        self.spin.setRange(low, high)
        self._add(self.spin, 1)
        if unit:
            self._add(QLabel(unit))
        self.spin.valueChanged.connect(lambda _: self.changed.emit())

    def value(self) -> int:
        return int(self.spin.value())

    def set_value(self, value: Any) -> None:
        self.spin.setValue(int(value))


class CheckField(Field):
    """Yes or no."""

    def __init__(self) -> None:
        super().__init__()
        self.box = QCheckBox()
        self._add(self.box, 1)
        self.box.toggled.connect(lambda _: self.changed.emit())

    def value(self) -> bool:
        return bool(self.box.isChecked())

    def set_value(self, value: Any) -> None:
        self.box.setChecked(bool(value))


class ChoiceField(Field):
    """One of a few values."""

    def __init__(self, choices: Sequence[Any], *, optional: bool) -> None:
        super().__init__()
        self.combo = QComboBox()
        self._choices = ([None] if optional else []) + list(choices)
        self.combo.addItems([AUTOMATIC if c is None else str(c) for c in self._choices])
        self._add(self.combo, 1)
        self.combo.currentIndexChanged.connect(lambda _: self.changed.emit())

    def value(self) -> Any:
        return self._choices[self.combo.currentIndex()]

    def set_value(self, value: Any) -> None:
        if value in self._choices:
            self.combo.setCurrentIndex(self._choices.index(value))


class ChecksField(Field):
    """Any number of a few names, as check boxes; the names may be told later (:meth:`set_choices`).

    Values that are no known name stay as boxes of their own, so that nothing chosen is lost.
    """

    def __init__(self, choices: Sequence[str] = ()) -> None:
        super().__init__(vertical=True)
        self.boxes: dict[str, QCheckBox] = {}
        self.set_choices(choices)

    def set_choices(self, choices: Sequence[str], tips: dict[str, str] | None = None) -> None:
        chosen = self.value()
        for box in self.boxes.values():
            self._row.removeWidget(box)
            box.deleteLater()
        self.boxes = {}
        for name in dict.fromkeys([*choices, *chosen]):
            self._append(name, name in chosen, (tips or {}).get(name, ""))

    def _append(self, name: str, checked: bool, tip: str = "") -> None:
        box = QCheckBox(name)
        box.setChecked(checked)
        box.setToolTip(tip)
        box.toggled.connect(lambda _: self.changed.emit())
        self.boxes[name] = box
        self._add(box)

    def value(self) -> list[str]:
        return [name for name, box in self.boxes.items() if box.isChecked()]

    def set_value(self, value: Any) -> None:
        for name in value or ():
            if name not in self.boxes:
                self._append(name, False)
        for name, box in self.boxes.items():
            box.setChecked(name in (value or ()))


class ListField(TextField):
    """Several values in one line, separated by commas."""

    def __init__(self, *, optional: bool) -> None:
        super().__init__(optional=optional, placeholder="one, or several separated by commas")

    def value(self) -> Any:
        text = self.line.text().strip()
        if not text:
            return None if self._optional else []
        return [part.strip() for part in text.split(",") if part.strip()]

    def set_value(self, value: Any) -> None:
        self.line.setText(", ".join(str(v) for v in value or ()))


class PathField(TextField):
    """A path with a dialog; ``kind`` says whether it is read (file or folder) or made."""

    def __init__(self, kind: Literal["open", "save"], *, optional: bool = False, title: str = "") -> None:
        super().__init__(optional=optional)
        self.edited_by_hand = False
        self._kind, self._title = kind, title
        self.line.textEdited.connect(self._mark_edited)
        button = QToolButton()
        button.setText("…")
        button.setToolTip("Choose where to save" if kind == "save" else "Choose a file or a folder")
        self._add(button)
        if kind == "save":
            button.clicked.connect(self._ask_save)
        else:
            button.setMenu(open_menu(button, self._take))
            button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)

    def _mark_edited(self) -> None:
        self.edited_by_hand = True

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, self._title or "Save as", self.line.text(), options=QFileDialog.Option.DontConfirmOverwrite
        )  # an existing result is resumed or refused by the task, never overwritten by the dialog
        self._take(path)

    def _take(self, path: str) -> None:
        if path:
            self.edited_by_hand = True
            self.line.setText(path)


def open_menu(parent: QWidget, take: Any) -> QMenu:
    """*File…* and *Folder…*: system dialogs choose one kind at a time. ``take(path)`` gets '' on cancel."""
    menu = QMenu(parent)
    menu.addAction("File…", lambda: take(QFileDialog.getOpenFileName(parent, "Choose a file")[0]))
    menu.addAction("Folder…", lambda: take(QFileDialog.getExistingDirectory(parent, "Choose a folder")))
    return menu


class BoxField(TextField):
    """A box in voxels; *Visible* fills in what the viewer shows (``visible()`` -> text or None)."""

    def __init__(self, visible: Any) -> None:
        super().__init__(optional=True, placeholder="z0:z1,y0:y1,x0:x1 (everything)")
        self._visible = visible
        self.button = QPushButton("Visible")
        self.button.setToolTip("Only what the viewer shows: the visible y and x, in all z")
        self.button.clicked.connect(self._take_visible)
        self._add(self.button)

    def _take_visible(self) -> None:
        text = self._visible()
        if text:
            self.set_value(text)


class ModelField(Field):
    """A model by name, or the path of a bundle's folder."""

    def __init__(self, *, optional: bool = False) -> None:
        super().__init__()
        self._optional = optional
        self.combo = _editable_combo()
        self._add(self.combo, 1)
        self.combo.currentTextChanged.connect(lambda _: self.changed.emit())

    def set_models(self, models: Sequence[tuple[str, str]]) -> None:
        """``(name, description)`` of each; the current text stays."""
        text = self.combo.currentText()
        self.combo.blockSignals(True)
        self.combo.clear()
        for row, (name, description) in enumerate(models):
            self.combo.addItem(name)
            self.combo.setItemData(row, description, Qt.ItemDataRole.ToolTipRole)
        self.combo.setCurrentText(text)
        self.combo.blockSignals(False)

    def names(self) -> list[str]:
        """The models that are offered."""
        return [self.combo.itemText(row) for row in range(self.combo.count())]

    def value(self) -> str | None:
        text = str(self.combo.currentText().strip())
        return None if self._optional and not text else text

    def set_value(self, value: Any) -> None:
        self.combo.setCurrentText("" if value is None else str(value))


class CascadeField(Field):
    """``off``, ``auto``, or the file of a plan."""

    def __init__(self) -> None:
        super().__init__()
        self.combo = _editable_combo()
        self.combo.addItems(("off", "auto"))
        self._add(self.combo, 1)
        button = QToolButton()
        button.setText("…")
        button.setToolTip("Choose a plan")
        button.clicked.connect(self._ask)
        self._add(button)
        self.combo.currentTextChanged.connect(lambda _: self.changed.emit())

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a plan", "", "Plans (*.cascade.json)")
        if path:
            self.set_value(path)

    def value(self) -> str:
        return str(self.combo.currentText().strip())

    def set_value(self, value: Any) -> None:
        self.combo.setCurrentText("off" if value is None else str(value))


def _editable_combo() -> QComboBox:
    combo = QComboBox()
    combo.setEditable(True)
    combo.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def _unwrap_optional(annotation: Any) -> tuple[Any, bool]:
    """The type, and whether None is allowed beside it; no parameter is of two other types."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = next(a for a in get_args(annotation) if a is not type(None))
        return inner, True
    return annotation, False


def _bounds(info: FieldInfo) -> tuple[float | None, float | None]:
    """Inclusive bounds of a whole number."""
    low = high = None
    for fact in info.metadata:
        low = fact.ge if hasattr(fact, "ge") else fact.gt + 1 if hasattr(fact, "gt") else low
        high = fact.le if hasattr(fact, "le") else fact.lt - 1 if hasattr(fact, "lt") else high
    return low, high


def make_field(info: FieldInfo) -> Field:
    """The input for one parameter whose role needs no viewer (sources and boxes are made by the form)."""
    facts = parameter_facts(info)
    annotation, optional = _unwrap_optional(info.annotation)
    role, unit = facts.get("role", "plain"), facts.get("unit")
    if role == "model" and annotation is str:
        return ModelField(optional=optional)
    if role == "cascade":
        return CascadeField()
    if role in _PATH_ROLES and annotation is str:
        return PathField(
            "save" if role in _WRITTEN_ROLES else "open",
            optional=optional,
            title=info.description or "",
        )
    if role == "voxel_size":
        return TextField(optional=optional, placeholder="from the file; or e.g. 40,4,4nm")
    if annotation is bool:
        return CheckField()
    if get_origin(annotation) is Literal:
        return ChoiceField(get_args(annotation), optional=optional)
    if get_origin(annotation) is tuple:
        return ListField(optional=optional)
    if annotation is int and not optional:
        low, high = _bounds(info)
        low, high = (-_LARGEST_SPIN if low is None else low), (_LARGEST_SPIN if high is None else high)
        return SpinField(int(low), int(high), unit)
    if annotation in (int, float):
        return NumberField(whole=annotation is int, optional=optional, unit=unit)
    return TextField(optional=optional, unit=unit)
