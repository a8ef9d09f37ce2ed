"""A task's options as a form says them, and a form as a command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from connectoscope.tasks.base import Task, parameter_facts

_OPTION = re.compile(
    r"\bconnectoscope .*?(?=[,;:.]\s|\)|$)|(?<![^\s(])--(?P<option>[a-z]+(?:-[a-z]+)*)", re.MULTILINE
)


def label_of(name: str, info: FieldInfo) -> str:
    """A parameter's name for people."""
    facts = parameter_facts(info)
    words = "new_model" if facts.get("role") == "new_model" else name
    return facts.get("label") or words.replace("_", " ").capitalize()


def in_form_words(text: str, task: Task) -> str:
    """What is said of options of the task, ``--voxel-size``, said of the form's fields, Voxel size.

    Names of files and whole commands stay as they are.
    """
    infos = task.parameters.model_fields

    def label(found: re.Match[str]) -> str:
        name = (found["option"] or "").replace("-", "_")
        return label_of(name, infos[name]) if name in infos else found[0]

    return _OPTION.sub(label, text)


def command_line(task: Task, values: Mapping[str, Any]) -> str:
    """``connectoscope TASK ...`` with arguments in order and the options that are not at their default."""
    words = ["connectoscope", *task.name.split()]
    options: list[str] = []
    for name, info in task.parameters.model_fields.items():
        value = values.get(name)
        if parameter_facts(info).get("argument"):
            words += [] if value is None else [str(value)]
            continue
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        option = "--" + name.replace("_", "-")
        if isinstance(value, list | tuple):
            if tuple(value) != tuple(default or ()):
                options += [word for item in value for word in (option, str(item))]
        elif value == default or value is None:
            continue
        elif isinstance(value, bool):
            options.append(option if value else "--no-" + option[2:])
        else:
            options += [option, str(value)]
    words += options
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
