"""Makes docs/reference: the commands, from the tasks' declarations, and the library, from its docstrings (pdoc).

make docs
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc
from pydantic_core import PydanticUndefined

from connectoscope.tasks.base import Task, load_task, parameter_facts, task_names

OUT = Path(__file__).parent / "reference"
ROOMS = [
    "volumes",
    "networks",
    "zoo",
    "blockwise",
    "segmentation",
    "detection",
    "cascade",
    "adaptation",
    "pruning",
    "xray2em",
    "training",
    "evaluation",
    "tasks",
    "jobs",
]


def command_page() -> str:
    """Every task: what it is for, its arguments and options, and its places in the window's menus."""
    parts = ["# Commands", "Made from the tasks' declarations; `connectoscope COMMAND --help` says the same."]
    for name in task_names():
        task = load_task(name)
        if not task.hidden:
            parts.append(section(task))
    return "\n\n".join(parts) + "\n"


def section(task: Task) -> str:
    places = ", ".join(f"*{entry.menu} ▸ {entry.title}*" for entry in task.menu)
    lines = [
        f"## connectoscope {task.name}",
        "",
        task.summary + (f" In the window: {places}." if places else ""),
        "",
    ]
    lines += ["| parameter | default | |", "|---|---|---|"]
    for name, info in task.parameters.model_fields.items():
        facts = parameter_facts(info)
        shown = name.upper() if facts.get("argument") else "--" + name.replace("_", "-")
        default = (
            "required" if info.default is PydanticUndefined else f"`{info.default}`" if info.default else ""
        )
        unit = f" ({facts['unit']})" if facts.get("unit") else ""
        lines.append(f"| `{shown}` | {default} | {info.description}{unit} |")
    return "\n".join(lines)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    (OUT / "commands.md").write_text(command_page(), encoding="utf-8")
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*(f"connectoscope.{room}" for room in ROOMS), output_directory=OUT / "library")
    sys.stdout.write(f"{OUT / 'commands.md'}\n{OUT / 'library' / 'index.html'}\n")


if __name__ == "__main__":
    main()
