"""Which models there are, and what is on their cards (:mod:`connectoscope.zoo`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from connectoscope.errors import UserError
from connectoscope.tasks.base import Parameters, Task, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class Models(Parameters):
    """List the models, or show the card of one."""

    action: Literal["list", "show"] = parameter("list", argument=True, help="list, or show NAME.")
    name: str | None = parameter(None, argument=True, help="Model to show: a name or a folder.")


def run(parameters: Models, context: Context) -> dict[str, Any]:
    from connectoscope.zoo import find_model, list_models

    if parameters.action == "show":
        if parameters.name is None:
            raise UserError(
                "say which model to show: connectoscope models show NAME ('models list' names them)"
            )
        bundle = find_model(parameters.name)
        return {
            "task": "models",
            "path": str(bundle.path),
            "card": bundle.card.model_dump(mode="json", by_alias=True),
        }
    if parameters.name is not None:
        raise UserError("'models list' takes no name; to see one: connectoscope models show NAME")
    return {
        "task": "models",
        "models": [
            {
                "name": b.path.name,
                "path": str(b.path),
                "description": b.card.description,
                "outputs": [o.name for o in b.card.outputs],
                "voxel_size": b.card.inputs.voxel_size,
                "unit": b.card.inputs.unit,
                "licence": b.card.licence,
            }
            for b in list_models()
        ],
    }


def render(summary: dict[str, Any]) -> str:
    """The list as lines of name and description; a card as indented JSON without the training's curve."""
    import json

    if "card" in summary:
        card = dict(summary["card"])
        card["training"] = {k: v for k, v in card["training"].items() if k not in ("curve", "recipe")}
        return f"{summary['path']}\n{json.dumps(card, indent=2, ensure_ascii=False)}"
    return "\n".join(f"{m['name']:<20} {m['description']}" for m in summary["models"]) or "no model found"


TASK = Task(
    name="models",
    summary="List the models, or show one's card.",
    parameters=Models,
    run=run,
    in_process=True,
    render=render,
)
