"""What was asked for: task, parameters and how to run it, frozen and written once as ``request.json``."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectoscope.errors import UserError
from connectoscope.paths import exists, expanded, is_bare
from connectoscope.tasks.base import Parameters, Task, load_task, parameter_facts, task_names

Device = Literal["auto", "cpu", "cuda", "mps"]
_INPUT_ROLES = frozenset({"source", "model", "truth", "result", "recipe", "mask", "cascade"})
_VERSIONED = ("connectoscope", "numpy", "torch", "tensorstore")


def software_versions() -> dict[str, str]:
    """Versions of what computes, read from the installed metadata (nothing is imported)."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


class JobRequest(BaseModel):
    """A task with its parameters (JSON values, paths absolute) and the options of the run."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_version: Literal[1] = Field(1, alias="schema")
    task: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    device: Device = "auto"
    threads: int | None = Field(None, ge=1)  # None: all cores, one less in the background
    workers: int | None = Field(None, ge=1)  # processes or jobs that do blocks; None: this process does
    scheduler: str | None = None  # who hands blocks to workers; None: dask.distributed on this machine
    background: bool = False  # started by a window: lower priority, folder kept as history
    keep_job: bool = False
    overwrite: bool = False
    replaces: tuple[int, int] | None = None  # see JobFolder.may_replace
    software: dict[str, str] = Field(default_factory=software_versions)
    created: float = Field(default_factory=time.time)

    @classmethod
    def make(cls, task: Task | str, values: dict[str, Any] | Parameters, **options: Any) -> JobRequest:
        """Check ``values`` against the task's parameter model and fix paths to the present working directory.

        Args:
            task: The task or its name.
            values: Parameters by name; missing ones take their defaults.
            options: ``device``, ``threads``, ``workers``, ``scheduler``, ``background``, ``keep_job``, ``overwrite``.

        Raises:
            UserError: naming the first parameter that will not do, or there is no such scheduler.
        """
        task = load_task(task) if isinstance(task, str) else task
        parameters = values if isinstance(values, Parameters) else parse_parameters(task, values)
        stored = parameters.model_dump(mode="json")
        for name, info in type(parameters).model_fields.items():
            role = parameter_facts(info).get("role", "plain")
            stored[name] = _absolute(stored[name], role)
        if options.get("scheduler") is not None:
            from connectoscope.blockwise.crew import check_scheduler

            check_scheduler(options["scheduler"])
        for name, value in stored.items():
            _check_text(name, value)
        try:
            return cls(task=task.name, parameters=stored, **options)
        except ValidationError as error:
            raise UserError("--" + validation_message(error)) from None

    @classmethod
    def load(cls, path: Path) -> JobRequest:
        """Read ``request.json``.

        Raises:
            UserError: when it is missing, damaged or of a schema that this version does not know.
        """
        try:
            request = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UserError(
                f"{path.parent} is not a job folder: {path.name} cannot be read ({error.strerror})"
            ) from None
        except ValidationError as error:
            raise UserError(f"{path} is damaged or of another version: {validation_message(error)}") from None
        if request.task not in task_names():
            raise UserError(f"{path} asks for the task '{request.task}', which this version does not know")
        return request

    def to_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def provenance(self) -> dict[str, Any]:
        """What results carry: the request without times, without what does not change the bytes, and without the
        destination, as a result may be moved.
        """
        told = self.model_dump(
            mode="json", by_alias=True, include={"schema_version", "task", "parameters", "software"}
        )
        told["parameters"].pop("destination", None)
        return told

    @property
    def destination(self) -> Path | None:
        """Absolute path of the output; None for tasks that only report."""
        name = load_task(self.task).destination
        return Path(self.parameters[name]) if name is not None else None

    def check_files(self) -> None:
        """Raises UserError for a file on this machine that is to be read and is not there, as a mistyped one is not."""
        for _, value in missing_files(load_task(self.task), self.parameters):
            if self.destination and Path(f"{self.destination}.job") in Path(value).parents:
                continue  # the copy of a layer, yet to be made
            raise UserError(f"{value} does not exist; check the name")

    def addable(self) -> list[str]:
        """Parameters that an unfinished run may be given when it goes on."""
        fields = load_task(self.task).parameters.model_fields.items()
        return [name for name, info in fields if parameter_facts(info).get("addable")]

    def differences(self, new: JobRequest) -> list[str]:
        """In words, what ``new`` asks for differently from this one, as far as it changes the result."""
        if new.task != self.task:
            return [f"task was {self.task}, now {new.task}"]
        added = {name for name in new.addable() if new.parameters.get(name) and not self.parameters.get(name)}
        names = sorted({*self.parameters, *new.parameters} - added)
        pairs = [(name, self.parameters.get(name), new.parameters.get(name)) for name in names]
        found = [f"{name} was {_told(old)}, now {_told(now)}" for name, old, now in pairs if old != now]
        if new.device not in ("auto", self.device):
            found.append(f"device was {self.device}, now {new.device}")
        if new.threads not in (None, self.threads):
            found.append(f"threads was {self.threads or 'automatic'}, now {new.threads}")
        return found


def missing_files(task: Task, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parameters that name a file on this machine, to be read, which is not there, as a mistyped one is not; with that name."""
    for name, info in task.parameters.model_fields.items():
        value, role = values.get(name), parameter_facts(info).get("role")
        if role not in _INPUT_ROLES - {"model"} or not isinstance(value, str) or not value or "://" in value:
            continue
        own_name = value.startswith("sample:") or (role == "cascade" and value in ("off", "auto"))
        if not own_name and not exists(expanded(value.partition("::")[0])):
            yield name, value


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)


def parse_parameters(task: Task, values: dict[str, Any]) -> Parameters:
    """``values`` as the task's parameter model.

    Raises:
        UserError: one line naming the option, what was allowed and what came.
    """
    try:
        return task.parameters(**values)
    except ValidationError as error:
        raise UserError(validation_message(error, task.parameters)) from None


def validation_message(error: ValidationError, model: type[Parameters] | None = None) -> str:
    """The first complaint of a pydantic error as one line: ``--level: input should be …, got -1``."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    fields = model.model_fields if model is not None else {}
    if name in fields and not parameter_facts(fields[name]).get("argument"):
        name = "--" + name.replace("_", "-")
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"there is no parameter {name}"
    text = first["msg"].removeprefix("Value error, ").partition(", unable")[0]
    if first["type"] != "value_error":  # whose words are our own, and may begin with a name
        text = text[:1].lower() + text[1:]
    if first["type"] == "value_error" or isinstance(first["input"], dict):
        return f"{name}: {text}" if name else text
    return f"{name}: {text}, got {first['input']}"


def _check_text(name: str, value: Any) -> None:
    """A request is text, which names of files need not be."""
    if isinstance(value, list):
        for item in value:
            _check_text(name, item)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            shown = value.encode(errors="replace").decode()
            raise UserError(
                f"--{name.replace('_', '-')}: the name {shown} is not UTF-8; rename the file or folder"
            ) from None


def _absolute(value: Any, role: str) -> Any:
    """A path made absolute, so that a job can be resumed from anywhere; names and URLs stay as they are."""
    if isinstance(value, list):
        return [_absolute(item, role) for item in value]
    if not isinstance(value, str) or not value:
        return value
    bare = is_bare(value)
    if role == "new_model" and bare:
        from connectoscope.zoo.places import new_model

        return str(new_model(value))
    if role in ("destination", "new_model", "page"):
        if "://" in value or value.startswith("sample:"):
            what = "a sample" if value.startswith("sample:") else "a URL"
            raise UserError(f"destination {value} is {what}; name a file or folder on this machine")
        return os.path.normpath(expanded(value).absolute())
    if role == "model" and bare:  # what is called so here does not hide a model of that name
        from connectoscope.zoo.places import named_model

        if named_model(value):
            return value
    if role == "cascade" and value in ("off", "auto"):
        return value
    if role in _INPUT_ROLES and "://" not in value:
        file, mark, dataset = value.partition("::")
        path = expanded(file).absolute()
        if path.exists():
            return os.path.normpath(path) + mark + dataset
    return value
