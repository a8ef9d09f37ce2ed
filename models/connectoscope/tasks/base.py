"""How a task is declared: once, and everything else is derived from it.

A module in this folder is a thing that a user can ask for. It holds

* a frozen parameter model, a subclass of :class:`Parameters` whose fields are made with :func:`parameter`
  (name, type, default, help, unit, bounds);
* ``run(parameters, context) -> dict``, the summary that ``--json`` prints;
* ``TASK = Task(...)``.

Command line, window form, plugin widget, saved provenance and reference page come from there. Modules import
heavy libraries inside ``run``, so that ``--help`` answers at once.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from connectoscope.errors import UserError
from connectoscope.paths import expanded

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.volumes import Volume

Role = Literal[
    "source",
    "destination",
    "model",
    "new_model",
    "truth",
    "result",
    "recipe",
    "box",
    "voxel_size",
    "cascade",
    "mask",
    "page",
    "plain",
]
"""What a parameter stands for; forms choose their widget by it. A ``new_model`` is a destination whose bare name
means a folder among the user's models, a ``page`` a file that is written beside the result."""


class Parameters(BaseModel):
    """Base of every task's parameters: frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parameter(
    default: Any = ...,
    *,
    help: str,
    role: Role = "plain",
    argument: bool = False,
    advanced: bool = False,
    addable: bool = False,
    unit: str | None = None,
    label: str | None = None,
    **bounds: Any,
) -> Any:
    """A field of a parameter model.

    Args:
        default: Its default; ``...`` makes it required.
        help: One sentence for the end user; shown in ``--help``, the form's tooltip and the reference.
        role: What it stands for; a ``source`` is a file dialog with samples, a ``model`` a list of models, ….
        argument: A positional argument on the command line instead of an option.
        advanced: Folded away in forms.
        addable: A switch that an unfinished run may be given when it goes on; it cannot be taken away again.
        unit: Unit of the number, shown behind it.
        label: Name in forms; default is the field's name in words.
        bounds: ``ge``, ``le``, ``gt``, ``lt`` as pydantic knows them.
    """
    extra: dict[str, Any] = {
        "role": role,
        "argument": argument,
        "advanced": advanced,
        "addable": addable,
        "unit": unit,
        "label": label,
    }
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def parameter_facts(info: FieldInfo) -> dict[str, Any]:
    """What :func:`parameter` was told of a field: role, argument, advanced, addable, unit, label."""
    return dict(info.json_schema_extra) if isinstance(info.json_schema_extra, dict) else {}


def checked_by(check: Callable[[str], object]) -> AfterValidator:
    """A validator that leaves a text as it is; what ``check`` says against it is told of its field.

    What needs no file is checked so, before there is a job: forms say it beside the field, and the terminal leaves no
    folder behind.
    """

    def validate(text: str | None) -> str | None:
        try:
            if text is not None:
                check(text)
        except UserError as error:
            raise ValueError(str(error)) from None  # pydantic adds which field it is
        return text

    return AfterValidator(validate)


def _check_zarr_name(text: str) -> None:
    from connectoscope.blockwise.destination import check_zarr_name

    check_zarr_name(expanded(text))


def _check_model_name(text: str) -> None:
    from connectoscope.zoo.places import new_model
    from connectoscope.zoo.writing import check_name

    check_name(new_model(text))


def _check_length(text: str) -> None:
    from connectoscope.volumes.geometry import parse_length

    parse_length(text)


ZarrName = Annotated[str, checked_by(_check_zarr_name)]
"""A destination that is an OME-Zarr."""

NewModel = Annotated[str, checked_by(_check_model_name)]
"""A destination that is a model."""

length = checked_by(_check_length)
"""For a text that is one length with its unit, or None."""


def skip_corrupt() -> Any:
    """The field ``skip_corrupt`` of the tasks that have it."""
    return parameter(
        False,
        advanced=True,
        addable=True,
        help="Read damaged chunks of the source as 0 and list them, instead of stopping.",
    )


class OnVolume(Parameters):
    """Parameters shared by the tasks that read a volume."""

    box: str | None = parameter(
        None,
        role="box",
        help="Only this part, in voxels of --level: z0:z1,y0:y1,x0:x1 (z1, y1, x1 not included).",
    )
    level: int = parameter(0, ge=0, help="Resolution level that --box refers to (0 is the finest).")
    voxel_size: str | None = parameter(
        None,
        role="voxel_size",
        help="Voxel size z,y,x with unit, for example 40,4,4nm, where the file has none.",
    )
    channel: str | None = parameter(None, help="Channel by name or number, where there are several.")
    time: int | None = parameter(None, ge=0, help="Time point, where there are several.")


class Searching(OnVolume):
    """Shared by the tasks that look for something in a volume."""

    within: str | None = parameter(
        None,
        role="mask",
        advanced=True,
        label="Within mask",
        help="Only where this mask is not 0: a volume of the same extent, for example of 'detect --detector tissue'.",
    )


def open_source(parameters: OnVolume, source: str, *, skip_corrupt: bool = False) -> Volume:
    """The volume at ``source``, as the parameters say it is to be taken.

    Args:
        skip_corrupt: Its damaged chunks read as 0 and are noted.

    Raises:
        UserError: it cannot be opened, or channel, time or voxel size do not fit it.
    """
    from connectoscope.volumes import open_volume

    volume = open_volume(
        source, channel=parameters.channel, time=parameters.time, voxel_size=parameters.voxel_size
    )
    return volume.skipping_corrupt() if skip_corrupt else volume


@dataclass(frozen=True)
class MenuEntry:
    """A place in the window's menus that opens a task's form, with some parameters already chosen."""

    menu: str
    title: str
    preset: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One thing a user can ask for. ``name`` is the command, in one word or two; ``summary`` its one-line help."""

    name: str
    summary: str
    parameters: type[Parameters]
    run: Callable[[Any, Context], dict[str, Any]]
    menu: tuple[MenuEntry, ...] = ()
    destination: str | None = None
    """Name of the parameter that names the output; None for tasks that only report."""
    ending: Callable[[Mapping[str, Any]], str] = lambda values: ".ome.zarr"
    """What the output's name ends with, from the parameters; forms propose names by it."""
    in_process: bool = False
    """Quick: the terminal runs it in its own process, without an engine, a device or resuming."""
    hidden: bool = False
    """Not listed in ``--help``; for what only the window asks for."""
    preflight: str | None = None
    """The task, of the same parameters, that says what this one will need (``--dry-run``)."""
    elsewhere: bool = False
    """Its blocks can be done by other processes and machines (``--workers``, ``--scheduler``)."""
    previews: bool = False
    """Its model makes probabilities of its source, which the window shows of a small part beforehand."""
    render: Callable[[dict[str, Any]], str] | None = None
    """The summary as text for people, where key and value a line will not do."""

    @property
    def source(self) -> str:
        """Name of the parameter that names the volume; "" if there is none."""
        return self._with_role("source")

    @property
    def source_voxel_size(self) -> str:
        """Name of the parameter that gives the source's voxel size where its file has none; "" if there is none."""
        return self._with_role("voxel_size")

    def _with_role(self, role: Role) -> str:
        fields = self.parameters.model_fields.items()
        return next((name for name, info in fields if parameter_facts(info).get("role") == role), "")


def task_names() -> list[str]:
    """Commands in alphabetical order, from the files in this folder.

    ``train_gate.py`` is ``train-gate``; a folder is a command with actions: ``adapt/rank.py`` is ``adapt rank``.
    """
    import connectoscope.tasks as here

    found = []
    for module in pkgutil.iter_modules(here.__path__):
        if module.ispkg:
            actions = pkgutil.iter_modules([f"{path}/{module.name}" for path in here.__path__])
            found += [f"{module.name} {action.name}" for action in actions]
        elif module.name != "base":
            found.append(module.name)
    return sorted(name.replace("_", "-") for name in found)


def load_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UserError: when there is none.
    """
    if name not in task_names():
        raise UserError(f"there is no task '{name}'; tasks are {', '.join(task_names())}")
    module = importlib.import_module(f"connectoscope.tasks.{name.replace('-', '_').replace(' ', '.')}")
    task: Task = module.TASK
    return task
