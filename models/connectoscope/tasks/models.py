"""Which models there are, what is on their cards, and how they come and leave (:mod:`connectoscope.zoo`).

A bioimage.io package that was exported here gives back the same model. Other packages can be imported if they have ONNX
weights, one input channel and probabilities as output; such models segment, but cannot be trained, adapted or pruned. No
code of a package is executed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from connectoscope.errors import UserError
from connectoscope.tasks.base import Parameters, Task, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.zoo import Bundle


class Models(Parameters):
    """List the models; show the card of one, export, import, or remove it from your own."""

    action: Literal["list", "show", "export", "import", "remove"] = parameter(
        "list",
        argument=True,
        help="list, show NAME, export NAME FILE.onnx or FILE.zip, import FILE.zip [NAME], or remove NAME (a model of your own).",
    )
    name: str | None = parameter(
        None,
        argument=True,
        help="Model: a name or a folder. For import: the bioimage.io package, a zip or a folder.",
    )
    file: str | None = parameter(
        None,
        argument=True,
        help="For export: the file to write, .onnx (the network) or .zip (a bioimage.io package). For import: the new model, "
        "a bare name or a folder.",
    )
    author: tuple[str, ...] = parameter(
        (), help="For export to .zip: who made the model (repeat for several)."
    )
    voxel_size: str | None = parameter(
        None,
        help="For import: voxel size z,y,x with unit that the model was made for, where the package states none.",
    )


def run(parameters: Models, context: Context) -> dict[str, Any]:
    """List, show, export, import or remove.

    Raises:
        UserError: a word is missing or too many, there is no such model, the file exists, the model is a bundled one, or
            a package cannot be imported.
    """
    from connectoscope.zoo import find_model, list_models

    action, name = parameters.action, parameters.name
    wanted, words = {
        "list": ("list", (0,)),
        "show": ("show NAME", (1,)),
        "export": ("export NAME FILE.onnx (or FILE.zip)", (2,)),
        "import": ("import FILE.zip [NAME]", (1, 2)),
        "remove": ("remove NAME", (1,)),
    }[action]
    given = (name is not None) + (parameters.file is not None)
    if given not in words:
        hint = " ('models list' names the models)" if "NAME" in wanted else ""
        what = "a word is missing" if given < min(words) else "there is a word too many"
        raise UserError(f"{what}; use: connectoscope models {wanted}{hint}")
    for option, value, of in (
        ("--author", parameters.author, "export"),
        ("--voxel-size", parameters.voxel_size, "import"),
    ):
        if value and action != of:
            raise UserError(f"{option} belongs to 'models {of}', not to 'models {action}'")
    if action == "import":
        return _import(Path(name or ""), parameters)
    if name is None:
        return {"task": "models", "models": [_line(bundle) for bundle in list_models()]}
    bundle = _own(name) if action == "remove" else find_model(name)
    if action == "show":
        return {
            "task": "models",
            "path": str(bundle.path),
            "card": bundle.card.model_dump(mode="json", by_alias=True),
        }
    if action == "remove":
        from connectoscope.zoo.writing import remove_bundle

        remove_bundle(bundle)
        return {"task": "models", "removed": str(bundle.path)}
    return {"task": "models", "exported": _export(bundle, Path(parameters.file or ""), parameters.author)}


def _own(name: str) -> Bundle:
    """The model to remove: a bare name is one of the user's models, never a folder that lies here."""
    from connectoscope.zoo.bundle import find_model
    from connectoscope.zoo.places import named_model

    if Path(name).name == name and named_model(name) is None and Path(name).exists():
        raise UserError(f"none of your models is called '{name}'; to remove the folder, name it ./{name}")
    return find_model(name)


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


def _export(bundle: Bundle, out: Path, authors: tuple[str, ...]) -> str:
    from connectoscope.blockwise.destination import check_writable, write_file
    from connectoscope.networks.onnx_network import ONLY_SEGMENTS

    if bundle.card.imported:
        raise UserError(ONLY_SEGMENTS)
    if out.suffix not in (".onnx", ".zip"):
        raise UserError(
            f"{out}: export writes ONNX or a bioimage.io package; give a name that ends in .onnx or .zip"
        )
    if out.suffix == ".onnx" and authors:
        raise UserError("an ONNX file names no authors; leave --author out, or export to .zip")
    if out.exists():
        raise UserError(f"{out} exists; choose another name")
    check_writable(out)
    # Only now, since torch takes seconds to load.
    from connectoscope.zoo.bioimage import package_bytes
    from connectoscope.zoo.export import onnx_bytes

    write_file(out, onnx_bytes(bundle) if out.suffix == ".onnx" else package_bytes(bundle, authors))
    return str(out)


def _import(package: Path, parameters: Models) -> dict[str, Any]:
    from connectoscope.paths import expanded
    from connectoscope.volumes.geometry import NANOMETRES, parse_voxel_size
    from connectoscope.volumes.stores import is_url
    from connectoscope.zoo.imports import import_package
    from connectoscope.zoo.places import user_models

    if is_url(parameters.name or ""):
        raise UserError(f"download {parameters.name} first, as a zip, and import that")
    voxel_size = None
    if parameters.voxel_size is not None:
        (z, y, x), unit = parse_voxel_size(parameters.voxel_size)
        voxel_size = (z * NANOMETRES[unit], y * NANOMETRES[unit], x * NANOMETRES[unit])
    file = parameters.file
    out = None if file is None else expanded(file)
    if out is not None and not out.name:
        raise UserError(f"'{file}' is not a valid model name; use: connectoscope models import FILE.zip NAME")
    folder = user_models() if out is None or out.name == file else out.parent
    made = import_package(expanded(str(package)), folder, None if out is None else out.name, voxel_size)
    return {"task": "models", "imported": str(made.bundle.path), "warnings": list(made.notes)}


def render(summary: dict[str, Any]) -> str:
    """The list as lines of name and description; a card as indented JSON without the training's curve."""
    import json

    if "card" in summary:
        card = dict(summary["card"])
        card["training"] = {k: v for k, v in card["training"].items() if k not in ("curve", "recipe")}
        return f"{summary['path']}\n{json.dumps(card, indent=2, ensure_ascii=False)}"
    for done in ("exported", "imported", "removed"):
        if done in summary:
            return "\n".join([f"{done} {summary[done]}", *summary.get("warnings", ())])
    lines = [
        f"{m['name']:<20} {m['description']}" + (f" Made from {m['parent']}." if m["parent"] else "")
        for m in summary["models"]
    ]
    return "\n".join(lines) or "no model found"


TASK = Task(
    name="models",
    summary="List the models; show a model's card; export (ONNX, bioimage.io), import or remove a model.",
    parameters=Models,
    run=run,
    in_process=True,
    render=render,
)
