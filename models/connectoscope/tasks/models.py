"""Which models there are, what is on their cards, and how they leave (:mod:`connectoscope.zoo`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connectoscope.errors import UserError
from connectoscope.tasks.base import Parameters, Task, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.zoo import Bundle


class Models(Parameters):
    """List the models; show the card of one, export it to ONNX, or remove it from your own."""

    action: Literal["list", "show", "export", "remove"] = parameter(
        "list",
        argument=True,
        help="list, show NAME, export NAME FILE.onnx, or remove NAME (one of your own).",
    )
    name: str | None = parameter(None, argument=True, help="Model: a name or a folder.")
    file: str | None = parameter(None, argument=True, help="Of export: the ONNX file to write.")


def run(parameters: Models, context: Context) -> dict[str, Any]:
    """List, show, export or remove.

    Raises:
        UserError: a word is missing or too many, there is no such model, the file exists, or the model is a bundled one.
    """
    from connectoscope.zoo import find_model, list_models

    action, name = parameters.action, parameters.name
    wanted = {"list": "list", "show": "show NAME", "export": "export NAME FILE.onnx", "remove": "remove NAME"}
    given = (name is not None) + (parameters.file is not None)
    if given != wanted[action].count(" "):
        raise UserError(f"say: connectoscope models {wanted[action]} ('models list' names them)")
    if name is None:
        return {"task": "models", "models": [_line(bundle) for bundle in list_models()]}
    bundle = find_model(name)
    if action == "show":
        return {
            "task": "models",
            "path": str(bundle.path),
            "card": bundle.card.model_dump(mode="json", by_alias=True),
        }
    if action == "remove":
        from connectoscope.zoo.bundle import remove_bundle

        remove_bundle(bundle)
        return {"task": "models", "removed": str(bundle.path)}
    return {"task": "models", "exported": _export(bundle, Path(parameters.file or ""))}


def _line(bundle: Bundle) -> dict[str, Any]:
    card = bundle.card
    return {
        "name": bundle.path.name,
        "path": str(bundle.path),
        "description": card.description,
        "parent": bundle.parent,
        "outputs": [o.name for o in card.outputs],
        "voxel_size": card.inputs.voxel_size,
        "unit": card.inputs.unit,
        "licence": card.licence,
    }


def _export(bundle: Bundle, out: Path) -> str:
    from connectoscope.blockwise.destination import check_writable, write_file
    from connectoscope.zoo.export import onnx_bytes

    if out.suffix != ".onnx":
        raise UserError(f"{out}: export writes ONNX; give a name that ends in .onnx")
    if out.exists():
        raise UserError(f"{out} exists; choose another name")
    check_writable(out)
    write_file(out, onnx_bytes(bundle))
    return str(out)


def render(summary: dict[str, Any]) -> str:
    """The list as lines of name and description; a card as indented JSON without the training's curve."""
    import json

    if "card" in summary:
        card = dict(summary["card"])
        card["training"] = {k: v for k, v in card["training"].items() if k not in ("curve", "recipe")}
        return f"{summary['path']}\n{json.dumps(card, indent=2, ensure_ascii=False)}"
    for done in ("exported", "removed"):
        if done in summary:
            return f"{done} {summary[done]}"
    lines = [
        f"{m['name']:<20} {m['description']}" + (f" Made from {m['parent']}." if m["parent"] else "")
        for m in summary["models"]
    ]
    return "\n".join(lines) or "no model found"


TASK = Task(
    name="models",
    summary="List the models; show one's card, export it to ONNX, or remove it.",
    parameters=Models,
    run=run,
    in_process=True,
    render=render,
)
