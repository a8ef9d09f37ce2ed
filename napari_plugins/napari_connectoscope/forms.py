"""The form of a task, made from its parameter model; all that it holds can be copied as a command."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import platformdirs
from napari.components import ViewerModel
from napari.layers import Layer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from qtpy.QtCore import QEvent, QTimer, Signal
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QFormLayout, QLabel, QScrollArea, QVBoxLayout, QWidget
from superqt import QCollapsible

from connectoscope.errors import UserError
from connectoscope.jobs.request import missing_files
from connectoscope.paths import exists, expanded
from connectoscope.segmentation.targets import shown
from connectoscope.tasks.base import Parameters, Task, parameter_facts
from connectoscope.volumes.endings import short_name
from connectoscope.volumes.geometry import parse_box, parse_voxel_size
from napari_connectoscope.fields import (
    BoxField,
    ChecksField,
    Field,
    ModelField,
    PathField,
    make_field,
)
from napari_connectoscope.source_field import SourceField
from napari_connectoscope.sources import (
    LAYER_PREFIX,
    check_held,
    check_inside,
    check_unmoved,
    file_facts,
    finest,
    layer_facts,
    length_unit,
    place_by,
    snapshot,
    source_of,
    visible_box,
)
from napari_connectoscope.submission import Submission
from napari_connectoscope.threads import background, one_line
from napari_connectoscope.wording import command_line, in_form_words, label_of

# A long path or name must not make the window wider.
_BREAK, _MAY_BREAK = "\u200b", re.compile(r"(?<=[/\\_])|(?<=[^\s/\\_]{30})")
_NAME_LENGTH = 60  # of a model: more than that says less


class _Fold(QCollapsible):
    """Its arrow is painted once, before it has the theme's colour: here again whenever that changes."""

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() in (QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            self._paint()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        super().showEvent(event)
        self._paint()

    def _paint(self) -> None:
        self.toggleButton().ensurePolished()
        self.setExpandedIcon("▾")
        self.setCollapsedIcon("▸")


class TaskForm(QWidget):
    """The form of one task.

    Args:
        task: Whose parameters.
        viewer: Its image layers can be the source, and its view the box.
        preset: Values to begin with.
        error_line: Where the red line is shown that says what is wrong; None: in a line of its own at the end.
    """

    changed = Signal()  # any value, by hand or by set_values

    def __init__(
        self,
        task: Task,
        viewer: ViewerModel | None = None,
        preset: Mapping[str, Any] | None = None,
        parent: QWidget | None = None,
        error_line: QLabel | None = None,
    ) -> None:
        super().__init__(parent)
        self.task = task
        self._viewer = viewer
        self.fields: dict[str, Field] = {}
        self._labels: dict[str, QLabel] = {}
        self._infos = task.parameters.model_fields
        self._cards: dict[str, Any] = {}

        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        top, folded = QFormLayout(), QFormLayout()
        for layout in (top, folded):
            layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        outer.addLayout(top)
        self._advanced = _Fold("Advanced", expandedIcon="▾", collapsedIcon="▸")
        inside = QWidget()
        inside.setLayout(folded)
        folded.setContentsMargins(0, 0, 0, 0)
        self._advanced.setContent(inside)
        outer.addWidget(self._advanced)
        self._error = make_error_line() if error_line is None else error_line
        self.show_error("")
        if error_line is None:
            outer.addWidget(self._error)

        for name in self._order():
            info = self._infos[name]
            field = self._make(name, info)
            if not info.is_required():
                field.set_value(info.get_default(call_default_factory=True))
            field.setToolTip(info.description or "")
            field.setObjectName(name)
            field.setAccessibleName(self.label(name))
            label = QLabel(self.label(name))
            label.setToolTip(info.description or "")
            label.setBuddy(field)
            self._labels[name] = label
            (folded if self._is_folded(name) else top).addRow(label, field)
            self.fields[name] = field
        if folded.rowCount() == 0:
            self._advanced.hide()
        self._advanced.collapse(animate=False)  # superqt leaves new content open
        if results := self._with_role("result"):
            self.set_values(dict.fromkeys(results, self._newest_result()))
        self.set_values(preset or {})
        self._source = self.layer()
        for name, field in self.fields.items():
            field.changed.connect(lambda name=name: self._on_changed(name))
        self._propose_destination()
        if any(isinstance(field, ModelField) for field in self.fields.values()):
            background(self, lambda: _read_cards(task.name), self._take_cards)

    # -- building ------------------------------------------------------------------------------------------
    def _order(self) -> list[str]:
        """Arguments first, then the task's own parameters, then the inherited ones."""
        own = inspect.get_annotations(self.task.parameters)
        return sorted(
            self._infos, key=lambda n: (not parameter_facts(self._infos[n]).get("argument"), n not in own)
        )

    def _is_folded(self, name: str) -> bool:
        """Advanced ones, and inherited ones other than the box: few runs need them."""
        facts = parameter_facts(self._infos[name])
        inherited = name not in inspect.get_annotations(self.task.parameters)
        return bool(facts.get("advanced")) or (inherited and facts.get("role") != "box")

    def _make(self, name: str, info: FieldInfo) -> Field:
        role = parameter_facts(info).get("role")
        if role == "source" and info.annotation is str:
            return SourceField(self._viewer)
        if role == "box":
            box = BoxField(self._visible_box)
            box.button.setVisible(bool(self.task.source))  # else no layer tells what is visible
            return box
        if name == "target" and self._with_role("model"):
            return ChecksField()  # filled from the model's card
        return make_field(info)

    def label(self, name: str) -> str:
        """The parameter's name for people."""
        return label_of(name, self._infos[name])

    def _with_role(self, role: str) -> list[str]:
        return [name for name, info in self._infos.items() if parameter_facts(info).get("role") == role]

    def _sources(self) -> Iterator[SourceField]:
        return (field for field in self.fields.values() if isinstance(field, SourceField))

    def layer(self) -> Layer | None:
        """The layer chosen as source, if it is one."""
        return next((field.layer() for field in self._sources()), None)

    def _newest_result(self) -> str:
        """The file of the result whose layer is on top; '' where there is none."""
        layers = self._viewer.layers if self._viewer is not None else ()
        return next((path for la in reversed(layers) if (path := _result_file(la))), "")

    def _visible_box(self) -> str | None:
        layer = self.layer()
        if layer is None or self._viewer is None:
            self.show_error("choose an image layer as source first: the box is read from its view")
            return None
        if (level := self.fields.get("level")) is not None:
            level.set_value(0)
        box = visible_box(self._viewer, layer)
        if box.size == 0:
            self.show_error(f"nothing of '{layer.name}' is in view")
            return None
        return str(box)

    # -- what changes ---------------------------------------------------------------------------------------
    def _on_changed(self, name: str) -> None:
        self.show_error("")
        if isinstance(self.fields[name], SourceField):
            self._forget_voxel_size()
        if name != self.task.destination:
            self._propose_destination()
        if isinstance(self.fields[name], ModelField):
            self._list_targets()
        self.changed.emit()

    def _forget_voxel_size(self) -> None:
        """What was typed for one layer would resize the next one, which states its own."""
        layer, field = self.layer(), self.fields.get(self.task.source_voxel_size)
        if layer is not self._source and layer is not None and field is not None and length_unit(layer):
            field.set_value(None)
        self._source = layer

    def _propose_destination(self) -> None:
        field = self.fields.get(self.task.destination or "")
        source = next(self._sources(), None)
        if not isinstance(field, PathField) or source is None or field.edited_by_hand:
            return
        if not source.value():
            field.set_value("")  # what was proposed was for a layer that has gone
        else:
            values = {name: f.value() for name, f in self.fields.items()}
            if parameter_facts(self._infos[self.task.destination or ""]).get("role") == "new_model":
                field.set_value(self._new_model_name(str(values.get("model") or ""), source.value()))
                return
            target = values.get("target") or ()
            what = target[0] if len(target) == 1 else values.get("detector") or self.task.name.split()[-1]
            field.set_value(default_destination(source.value(), what, self.task.ending(values)))

    def _new_model_name(self, model: str, source: str) -> str:
        """A bare name that none of the models has: what it is made of, and for which volume."""
        name = "-".join(filter(None, (Path(model).name, stem_of(source))))
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:_NAME_LENGTH].strip("._-") or "model"
        return next(n for n in (name, *(f"{name}-{i}" for i in range(2, 999))) if n not in self._cards)

    def _take_cards(self, cards: dict[str, Any]) -> None:
        self._cards = cards
        described = [(name, card.description) for name, card in cards.items()]
        for field in self.fields.values():
            if isinstance(field, ModelField):
                field.set_models(described)
        self._list_targets()
        self._propose_destination()
        self._tell_missing()

    def _tell_missing(self) -> None:
        """A model that a menu entry or a plan names may not be here."""
        for field in self.fields.values():
            name = field.value() if isinstance(field, ModelField) else None
            if name and name not in self._cards and len(Path(name).parts) == 1:
                there = ", ".join(self._cards) or "none yet"
                self.show_error(
                    f"Model '{name}' is not here. Choose another ({there}), or train one (connectoscope train)."
                )

    def _list_targets(self) -> None:
        target = self.fields.get("target")
        model = next((f.value() for f in self.fields.values() if isinstance(f, ModelField)), None)
        card = self._cards.get(model or "")
        if isinstance(target, ChecksField) and card is not None:
            outputs = [
                o for o in card.outputs if not o.name.startswith("affinity_")
            ]  # neurons are made of them
            tips = {shown(o.name): o.meaning for o in outputs}
            if self.task.name == "segment" and "membranes" in tips:
                tips["neurons"] = "cells, put together from the pieces between the membranes"
            target.set_choices(list(tips), tips)
            self._show_targets()

    def _show_targets(self) -> None:
        """No empty row where no model says what it finds."""
        target = self.fields.get("target")
        if isinstance(target, ChecksField):
            for widget in (target, self._labels["target"]):
                widget.setVisible(bool(target.boxes))

    # -- values ---------------------------------------------------------------------------------------------
    def values(self) -> dict[str, Any]:
        """What the form holds, by parameter name, defaults included.

        A source layer that is only in memory is ``layer:NAME``, which only :meth:`submission` understands.
        Channel and time of a source layer are filled in where the form leaves them open.
        """
        values = {name: field.value() for name, field in self.fields.items()}
        layer = self.layer()
        if layer is not None:
            facts = file_facts(layer)
            for name, fact in (
                ("channel", "channel"),
                ("time", "time"),
                (self.task.source_voxel_size, "voxel_size"),
            ):
                if name in values and values[name] is None and facts.get(fact) is not None:
                    values[name] = facts[fact]
        return values

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Set some of the values; names that the task does not have are ignored."""
        for name, value in values.items():
            if name in self.fields:
                self.fields[name].set_value(value)
                if name == self.task.destination and isinstance(self.fields[name], PathField):
                    self.fields[name].edited_by_hand = bool(value)
        self._show_targets()

    def parameters(self) -> Parameters:
        """The checked parameters.

        Raises:
            UserError: one line, shown in the form as well.
        """
        values = self.values()
        try:
            for name, value in values.items():
                if value == "" and self._infos[name].default != "":
                    self._refuse(name, self._told_empty(name))
            self._check_boxes(values)
            self._check_voxel_size(values)
            self._check_files(values)
            self._check_models(values)
            if (layer := self.layer()) is not None:
                check_held(layer, values)
                check_unmoved(layer)
            return self.task.parameters.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            said = first["msg"].removeprefix("Value error, ")
            text = f"{self.label(name)}: {said}" if name in self._infos else said
            self.reveal(name)
            self.show_error(text)
            raise UserError(text) from None
        except UserError as error:
            self.show_error(str(error))
            raise

    def _refuse(self, name: str, text: str) -> NoReturn:
        self.reveal(name)
        raise UserError(text)

    def _told_empty(self, name: str) -> str:
        label, field = self.label(name), self.fields[name]
        if isinstance(field, SourceField) and (why := field.why_empty()):
            return why
        wanted = (self._infos[name].description or "").removeprefix(f"{label}: ")
        if isinstance(field, ModelField):  # the parameter's own words are of the terminal
            there = ", ".join(field.names())
            wanted = f"choose one ({there}), or the folder of one" if there else "type the folder of one"
        return f"{label} is empty: {wanted}"

    def _check_boxes(self, values: Mapping[str, Any]) -> None:
        """Raises UserError for a box that is none, or that the source's layer does not hold."""
        layer = self.layer()
        for name, field in self.fields.items():
            if not isinstance(field, BoxField) or not values.get(name):
                continue
            try:
                box = parse_box(values[name])
                if layer is not None and layer.ndim >= 3 and not values.get("level"):
                    z, y, x = (int(n) for n in finest(layer).shape[-3:])
                    check_inside(box, layer.name, (z, y, x))
            except UserError as error:
                self._refuse(name, str(error))

    def _check_files(self, values: Mapping[str, Any]) -> None:
        """Raises UserError for a file on this machine that is not there, as a mistyped one is not."""
        for name, path in missing_files(self.task, values):
            if not isinstance(self.fields[name], SourceField):  # a layer, or told by who opens it
                self._refuse(name, f"{self.label(name)}: {path} does not exist; check the name")

    def _check_models(self, values: Mapping[str, Any]) -> None:
        """Raises UserError for a model that there is not."""
        from connectoscope.zoo import find_model

        for name in self._with_role("model"):
            if values[name]:
                try:
                    find_model(str(expanded(values[name])))
                except UserError as error:
                    self._refuse(name, one_line(error))

    def _check_voxel_size(self, values: Mapping[str, Any]) -> None:
        """Raises UserError for one that is none: before it is asked whether a result is to be replaced."""
        if text := values.get(size := self.task.source_voxel_size):
            try:
                parse_voxel_size(text)
            except UserError:
                self.reveal(size)
                raise

    def reveal(self, name: str) -> None:
        """Bring one parameter into sight, for a question about it."""
        if name in self.fields:
            if self._is_folded(name):
                self._advanced.expand(animate=False)
            field = self.fields[name]
            field.setFocus()
            QTimer.singleShot(0, self, lambda: _scroll_to(field))  # once it has got its place

    def submission(self, **options: Any) -> Submission:
        """What :meth:`Submission.run` needs to start the job, in a thread: all that is slow happens there.

        A layer gets the voxel size that the form gives, so that results lie on it.

        Args:
            options: ``device``, ``overwrite``, ``keep_job`` of the request.

        Raises:
            UserError: the form is not valid, or the source layer has no voxel size; shown in the form as well.
        """
        self.parameters()
        values, layer, image = self.values(), self.layer(), None
        size = self.task.source_voxel_size
        wanted = "model" in values and size in values and not values[size]
        if layer is not None and wanted and length_unit(layer) is None:
            text = f"'{layer.name}' does not state its voxel size: enter it as {self.label(size)}, for example 40,4,4nm"
            self.reveal(size)
            self.show_error(text)
            raise UserError(text)
        if layer is not None:
            try:
                if self._viewer is not None and values.get(size):
                    place_by(self._viewer, layer, values[size])
                if source_of(layer) is None:
                    image = snapshot(self._viewer, layer, values.get(size))
            except UserError as error:
                self.reveal(size)
                self.show_error(str(error))
                raise
        return Submission(self.task, values, image, options)

    def as_command(self) -> str:
        """The same run from a terminal, quoted for its shell.

        Raises:
            UserError: when the form is not valid, or its source is only in memory, or may be.
        """
        values = self.parameters().model_dump(mode="json")
        layer = self.layer()
        if layer is not None and source_of(layer) is None:
            if layer.source.path:  # opened by another reader; whether it is as we read it takes long to tell
                text = f"type {layer.source.path} as source to copy the command: '{layer.name}' may differ from that file"
            else:
                text = f"layer '{layer.name}' is only in memory: save it as OME-Zarr first, then copy the command"
            self.show_error(text)
            raise UserError(text)
        return command_line(self.task, values)

    @property
    def error_text(self) -> str:
        """The red line; '' where nothing is wrong."""
        return str(self._error.text()).replace(_BREAK, "")

    def show_error(self, text: str) -> None:
        """One red line under the fields, which speaks of them; '' clears it."""
        self._error.setText(_MAY_BREAK.sub(_BREAK, in_form_words(text, self.task)))
        self._error.setVisible(bool(text))


def _result_file(layer: Layer) -> str:
    path = str(layer_facts(layer).get("result") or "")
    return path if exists(Path(path)) else ""  # a preview has none


def make_error_line() -> QLabel:
    """A red line that says what is wrong with a form; hidden."""
    line = QLabel()
    line.setObjectName("form-error")
    line.setWordWrap(True)
    line.setStyleSheet("color: #e5534b;")
    line.hide()
    return line


def _scroll_to(field: QWidget) -> None:
    parent = field.parentWidget()
    while parent is not None and not isinstance(parent, QScrollArea):
        parent = parent.parentWidget()
    if parent is not None:
        parent.ensureWidgetVisible(field)


def default_destination(source: str, what: str, ending: str = ".ome.zarr") -> str:
    """``NAME-WHAT`` and the ending, beside the source where that can be written, else in the user's documents."""
    name, stem = _plain_name(source), stem_of(source)
    folder = Path(name).parent if Path(name).is_absolute() and "connectoscope_resources" not in name else None
    if folder is None or not os.access(folder, os.W_OK):
        documents = platformdirs.user_documents_path()
        folder = documents if documents.is_dir() else Path.home()
    return str(folder / f"{stem}-{what}{ending}")


def stem_of(source: str) -> str:
    """The short name of a source, such as can be part of a file's name."""
    name = short_name(_plain_name(source)).translate({ord(c): None for c in "[]"})  # napari's "name [1]"
    stem = "".join("_" if c in '<>:"/\\|?* ' else c for c in name)
    return stem.strip("._") or "volume"


def _plain_name(source: str) -> str:
    return source.removeprefix(LAYER_PREFIX).removeprefix("sample:").split("::")[0].rstrip("/\\")


def _read_cards(task: str) -> dict[str, Any]:
    """Name -> card of every model that the task can use."""
    from connectoscope.zoo import list_models

    cards = [bundle.card for bundle in list_models()]
    return {card.name: card for card in cards if card.reconstructs == (task == "reconstruct")}
