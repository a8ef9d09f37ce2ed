"""Patches of a volume that are worth labelling for a model (:mod:`connectoscope.adaptation.patches`).

The model runs on candidates that do not overlap; a rule chooses by how unsure it is of them. The default is the median
uncertainty of NeuroADDA (Sawmya, Athey, Liu, Shavit 2025, arXiv 2503.06196).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.tasks.base import MenuEntry, OnVolume, Task, checked_by, open_source, parameter

if TYPE_CHECKING:
    from pathlib import Path

    from connectoscope.adaptation.patches import PatchFile
    from connectoscope.adaptation.uncertainty import Eye, Seen
    from connectoscope.jobs.context import Context
    from connectoscope.volumes.geometry import Box
    from connectoscope.zoo import Card


def _check_patches_name(text: str) -> None:
    path = expanded(text)
    if path.suffix != ".json":
        raise UserError(
            f"{path.name or text}: patches are written as JSON; name it {path.name.split('.')[0] or 'NAME'}.json"
        )


def _shape(text: str) -> tuple[int, int, int]:
    try:
        z, y, x = (int(n) for n in text.split(","))
    except ValueError:
        z = y = x = 0
    if min(z, y, x) < 1:
        raise UserError(f"'{text}' is not z,y,x in whole voxels (for example 8,128,128)")
    return z, y, x


class AdaptSuggest(OnVolume):
    """A few patches to label."""

    source: str = parameter(
        role="source", argument=True, help="Volume to adapt to: file, folder, URL or sample:NAME."
    )
    destination: Annotated[str, checked_by(_check_patches_name)] = parameter(
        role="destination",
        argument=True,
        help="File to write: NAME.json, the patches as boxes in voxels and world units.",
    )
    model: str = parameter(role="model", help="Model to adapt: a name from 'models list' or a folder.")
    n: int = parameter(4, ge=1, le=64, label="Number of patches", help="How many patches to choose.")
    rule: Literal["median-mean", "top-median", "random", "highest", "k-centre"] = parameter(
        "median-mean",
        help="Which patches are chosen. By how unsure the model is of them (entropy): median-mean (mean entropy nearest to "
        "the median of all), top-median (highest median entropy) or highest (highest mean entropy). Others: random, "
        "k-centre (spread out in feature space).",
    )
    target: tuple[str, ...] = parameter(
        (),
        help="Output of the model whose uncertainty counts (repeat for several). Default: membranes, else all.",
    )
    patch: Annotated[str | None, checked_by(_shape)] = parameter(
        None,
        help="Size of a patch in voxels, z,y,x. Default: 8,128,128 for thick sections, else 48,48,48; smaller in small volumes.",
    )
    candidates: int = parameter(
        128,
        ge=1,
        advanced=True,
        help="Number of patches to choose from, at most; the model runs on all of them.",
    )
    turned: bool = parameter(
        False,
        advanced=True,
        label="Average over mirror images",
        help="Average the probabilities over four mirror images of a patch before judging it: slower.",
    )
    starts: str | None = parameter(
        None, role="destination", advanced=True, label="Folder for labels",
        help="Folder for the model's own labels of the patches, ID.tif each, which you correct by hand. "
        "Default: beside the file of the patches.",
    )  # fmt: skip
    instances: bool = parameter(
        False, help="You will label instances (neurons, cells): start from the pieces between the membranes."
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed.")


def run(parameters: AdaptSuggest, context: Context) -> dict[str, Any]:
    """Run the model on candidates, choose, write the file.

    Raises:
        UserError: destination exists, the model has no such output, or the volume is too small or shows no tissue.
    """
    from pathlib import Path

    import numpy as np

    from connectoscope.adaptation.labelling import labels_folder
    from connectoscope.adaptation.patches import Patch, PatchFile, PatchSource, choose, world_of
    from connectoscope.adaptation.patches import candidates as candidate_boxes
    from connectoscope.adaptation.uncertainty import Eye
    from connectoscope.blockwise.destination import check_writable, write_file
    from connectoscope.blockwise.grid import Grid
    from connectoscope.volumes.geometry import Box, parse_box
    from connectoscope.zoo import find_model

    out = Path(parameters.destination)
    if out.exists() and not context.may_overwrite:
        raise UserError(f"{out} exists; choose another name, or --overwrite")
    check_writable(out)
    starts = labels_folder(out) if parameters.starts is None else Path(parameters.starts)
    if starts.exists() and not starts.is_dir():
        raise UserError(f"{starts} is a file, and the labels need a folder: choose another with --starts")
    if starts.exists() and any(starts.iterdir()) and not context.resumed:
        raise UserError(
            f"{starts} already holds files, perhaps labels; choose another folder, or move it away"
        )
    bundle = find_model(parameters.model)
    channels = _channels(bundle.card, parameters.target)
    if parameters.instances and [bundle.card.outputs[c].name for c in channels] != ["boundary"]:
        raise UserError("instances are made from membranes alone: give --target membranes")
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
            f"{len(seen)} of {len(boxes)} candidates in {volume.name} show tissue, and {parameters.n} patches are wanted: "
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
        source=PatchSource(
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
    context.write_now()
    file = _write_starts(starts, eye, [seen[index] for index in chosen], bundle.card, file)
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


def _write_starts(
    folder: Path, eye: Eye, seen: list[tuple[Box, Seen]], card: Card, file: PatchFile
) -> PatchFile:
    """The model's own labels of the patches, 0 and 1, or the numbers of instances; what is there is left alone.

    Returns:
        The file with their digests.
    """
    import numpy as np
    from scipy import ndimage

    from connectoscope.adaptation.labelling import folder_of, write_labels
    from connectoscope.adaptation.labels import mask_of
    from connectoscope.training.checkpoint import digest

    told: dict[str, dict[str, str]] = {patch.id: {} for patch in file.patches}
    for channel, output in enumerate(card.outputs):
        if output.name not in file.outputs:
            continue
        place = folder_of(folder, output.name, file.outputs)
        for patch, (box, look) in zip(file.patches, seen, strict=True):
            labels = (eye.at_level0(look, box, channel) >= output.threshold).astype(np.uint8)
            if file.instances:
                labels = ndimage.label(labels == 0)[0].astype(np.uint16)
            told[patch.id][output.name] = digest(mask_of(labels, instances=file.instances))
            path = place / f"{patch.id}.tif"
            if not path.exists():  # else of a run that was interrupted, perhaps corrected since
                write_labels(path, labels, file.source)
    patches = tuple(patch.model_copy(update={"starts": told[patch.id]}) for patch in file.patches)
    return file.model_copy(update={"patches": patches})


TASK = Task(
    name="adapt suggest",
    summary="Choose the patches of a volume that are most worth labelling for a model.",
    parameters=AdaptSuggest,
    run=run,
    destination="destination",
    ending=lambda values: ".patches.json",
    previews=True,
    menu=(MenuEntry("Adapt", "Suggest Patches"),),
)
