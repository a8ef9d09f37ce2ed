"""Patches of a volume that are worth labelling for a model (:mod:`connectoscope.adaptation.patches`).

The model runs on candidates that do not overlap; a rule chooses by how unsure it is of them. The default is the median
uncertainty of NeuroADDA (Sawmya, Athey, Liu, Shavit 2025, arXiv 2503.06196).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.tasks.base import MenuEntry, OnVolume, Task, open_source, parameter

if TYPE_CHECKING:
    from pathlib import Path

    from connectoscope.adaptation.patches import PatchFile
    from connectoscope.adaptation.uncertainty import Eye, Seen
    from connectoscope.jobs.context import Context
    from connectoscope.volumes.geometry import Box
    from connectoscope.zoo import Card


def _patches_name(text: str) -> str:
    path = expanded(text)
    if path.suffix != ".json":
        raise UserError(
            f"{path.name or text}: patches are written as JSON; name it {path.name.split('.')[0] or 'NAME'}.json"
        )
    return text


class AdaptSuggest(OnVolume):
    """A few patches to label."""

    source: str = parameter(
        role="source", argument=True, help="Volume to adapt to: file, folder, URL or sample:NAME."
    )
    destination: Annotated[str, AfterValidator(_patches_name)] = parameter(
        role="destination",
        argument=True,
        help="File for the patches: NAME.json, with boxes in voxels and world units.",
    )
    model: str = parameter(role="model", help="Model to adapt: a name from 'models list' or a folder.")
    n: int = parameter(4, ge=1, le=64, help="How many patches.")
    rule: Literal["median-mean", "top-median", "random", "highest", "k-centre"] = parameter(
        "median-mean",
        help="Mean entropy nearest to the median of all; highest median entropy; at random; highest mean entropy; "
        "spread out in feature space.",
    )
    target: tuple[str, ...] = parameter(
        (),
        help="Output of the model whose uncertainty counts (repeat for several). Default: membranes, else all.",
    )
    patch: str | None = parameter(
        None,
        help="Voxels of a patch, z,y,x. Default: 8,128,128 for thick sections, else 48,48,48; smaller in small volumes.",
    )
    candidates: int = parameter(128, ge=1, advanced=True, help="Patches that the model is run on, at most.")
    turned: bool = parameter(
        False, advanced=True, help="Average the probabilities over four mirror images before judging."
    )
    starts: str | None = parameter(
        None, role="destination", advanced=True,
        help="Folder for the model's own labels of the patches, ID.tif each: to be corrected by hand. "
        "Default: beside the file.",
    )  # fmt: skip
    instances: bool = parameter(
        False, help="You will label instances (neurons, cells): begin with what lies between the membranes."
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Of what is drawn at random.")


def run(parameters: AdaptSuggest, context: Context) -> dict[str, Any]:
    """Run the model on candidates, choose, write the file.

    Raises:
        UserError: destination exists, the model has no such output, or the volume is too small or shows no tissue.
    """
    from pathlib import Path

    import numpy as np

    from connectoscope.adaptation.labelling import labels_folder
    from connectoscope.adaptation.patches import Patch, PatchFile, Source, choose, world_of
    from connectoscope.adaptation.patches import candidates as candidate_boxes
    from connectoscope.adaptation.uncertainty import Eye
    from connectoscope.blockwise.destination import check_writable, write_file
    from connectoscope.blockwise.grid import Grid
    from connectoscope.volumes.geometry import Box, parse_box
    from connectoscope.zoo import find_model

    out = Path(parameters.destination)
    if out.exists() and not (context.overwrite or context.resumed):
        raise UserError(f"{out} exists; choose another name, or --overwrite")
    check_writable(out)
    starts = labels_folder(out) if parameters.starts is None else Path(parameters.starts)
    if starts.exists() and not starts.is_dir():
        raise UserError(f"{starts} is a file, and the labels need a folder: choose another with --starts")
    if starts.exists() and any(starts.iterdir()) and not context.resumed:
        raise UserError(f"{starts} holds files already, labels perhaps; choose another name, or move it away")
    bundle = find_model(parameters.model)
    channels = _channels(bundle.card, parameters.target)
    if parameters.instances and [bundle.card.outputs[c].name for c in channels] != ["boundary"]:
        raise UserError("instances lie between membranes: take the target membranes alone")
    volume = open_source(parameters, parameters.source)
    for text in volume.warnings:
        context.warn(text)
    volume.voxel_size_nm()
    part = Box.of(volume.shape)
    if parameters.box is not None:
        part = Grid(volume).box_from_level(parse_box(parameters.box), parameters.level)
    shape = None if parameters.patch is None else _shape(parameters.patch)
    boxes = candidate_boxes(part, volume.levels[0].scale, parameters.n, shape)
    if len(boxes) > parameters.candidates:
        kept = np.random.default_rng(parameters.seed).permutation(len(boxes))
        boxes = [boxes[i] for i in sorted(kept[: max(parameters.candidates, parameters.n)])]
    eye = Eye(
        bundle,
        volume,
        boxes[0].shape,
        turned=parameters.turned,
        device=context.device,
        threads=context.threads,
    )
    seen = []
    for done, box in enumerate(boxes):
        context.check_cancelled()
        context.progress(done, len(boxes), "uncertainty")
        look = eye.look(box)
        if look is not None:
            seen.append((box, look))
    if len(seen) < parameters.n:
        raise UserError(
            f"{len(seen)} of {len(boxes)} candidates in {volume.name} show tissue, {parameters.n} patches are wanted: "
            "ask for fewer, or take another part"
        )
    entropies = np.array([look.entropy(channels) for _, look in seen])
    features = np.array([look.features for _, look in seen], np.float64)
    chosen = choose(
        parameters.rule, parameters.n, entropies[:, 0], entropies[:, 1], features, parameters.seed
    )
    patches = tuple(
        Patch(
            id=f"patch{rank}",
            box=str(seen[index][0]),
            world=world_of(seen[index][0], volume),
            mean_entropy=round(float(entropies[index, 0]), 6),
            median_entropy=round(float(entropies[index, 1]), 6),
        )
        for rank, index in enumerate(chosen, 1)
    )
    outputs = tuple(bundle.card.outputs[c].name for c in channels)
    file = PatchFile(
        schema=1,
        source=Source(
            name=volume.name,
            path=volume.source,
            shape=volume.shape,
            voxel_size=volume.levels[0].scale,
            unit=volume.unit,
        ),
        model={
            "name": bundle.card.name,
            "version": bundle.card.version,
            "hash": bundle.hash,
            "reference": parameters.model,
        },
        target=outputs[0] if len(outputs) == 1 else None,
        outputs=outputs,
        instances=parameters.instances,
        labels=None if parameters.starts is None else str(starts),
        rule=parameters.rule,
        seed=parameters.seed,
        candidates=len(seen),
        patches=patches,
    )
    _write_starts(starts, eye, [seen[index] for index in chosen], bundle.card, file)
    write_file(out, (file.model_dump_json(by_alias=True, indent=1) + "\n").encode())
    context.result("patches", out, out.stem)
    return {
        "task": "adapt suggest",
        "patches": str(out),
        "labels": str(starts),
        "rule": parameters.rule,
        "candidates": len(seen),
        "boxes": {p.id: p.box for p in patches},
        "mean_entropy": {p.id: p.mean_entropy for p in patches},
        "median_of_candidates": round(float(np.median(entropies[:, 0])), 6),
        "warnings": context.warnings,
    }


def _channels(card: Card, targets: tuple[str, ...]) -> list[int]:
    """Which outputs count."""
    from connectoscope.adaptation.labels import output_index

    if not targets and "boundary" not in {o.name for o in card.outputs}:
        return list(range(len(card.outputs)))
    return sorted({output_index(card, target) for target in targets or (None,)})


def _shape(text: str) -> tuple[int, int, int]:
    try:
        z, y, x = (int(n) for n in text.split(","))
    except ValueError:
        z = y = x = 0
    if min(z, y, x) < 1:
        raise UserError(f"--patch {text} is not z,y,x in whole voxels (for example 8,128,128)")
    return z, y, x


def _write_starts(folder: Path, eye: Eye, seen: list[tuple[Box, Seen]], card: Card, file: PatchFile) -> None:
    """The model's own labels of the patches, 0 and 1, or the numbers of instances; what is there is left alone."""
    import numpy as np
    from scipy import ndimage

    from connectoscope.adaptation.labelling import folder_of, write_labels

    for channel, output in enumerate(card.outputs):
        if output.name not in file.outputs:
            continue
        place = folder_of(folder, output.name, file.outputs)
        for patch, (box, look) in zip(file.patches, seen, strict=True):
            if (place / f"{patch.id}.tif").exists():  # of a run that was interrupted; perhaps corrected since
                continue
            labels = (eye.at_level0(look, box, channel) >= output.threshold).astype(np.uint8)
            if file.instances:
                labels = ndimage.label(labels == 0)[0].astype(np.uint16)
            write_labels(place / f"{patch.id}.tif", labels, file.source)


TASK = Task(
    name="adapt suggest",
    summary="Choose patches of a volume that are worth labelling for a model.",
    parameters=AdaptSuggest,
    run=run,
    destination="destination",
    ending=lambda values: ".patches.json",
    menu=(MenuEntry("Adapt", "Suggest Patches"),),
)
