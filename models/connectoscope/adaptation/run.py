"""The whole road from a model to one of another tissue: patches and labels, fine-tuning, comparison, bundle, signature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from connectoscope.adaptation.examples import make_examples
from connectoscope.adaptation.features import sample_patches, sees
from connectoscope.adaptation.finetune import FineTuning, Outcome, TuningSchedule
from connectoscope.adaptation.labels import Mask, output_index, read_labels
from connectoscope.adaptation.patches import PatchFile, check_source, read_patches
from connectoscope.adaptation.signature import Part, write_signature
from connectoscope.adaptation.verdict import as_rows, figures, in_words
from connectoscope.blockwise.tile import told_of_not_finite
from connectoscope.errors import UserError
from connectoscope.segmentation.targets import shown
from connectoscope.training.checkpoint import digest
from connectoscope.training.finish import as_shipped
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import parse_box
from connectoscope.zoo import Bundle, Card
from connectoscope.zoo.writing import check_new, write_bundle

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.adapt.train import AdaptTrain

UNLABELLED = 64  # patches of the target that give the statistics


def adapt(volume: Volume, bundle: Bundle, parameters: AdaptTrain, context: Context) -> dict[str, Any]:
    """Check everything, fine-tune, compare, write; a summary.

    Raises:
        UserError: destination exists, or model, volume, patches and labels do not go together.
    """
    out = Path(parameters.destination)
    check_new(out, replace=context.may_overwrite)
    if out.resolve() == bundle.path.resolve():
        raise UserError(f"{out} is the model itself, which is never changed; choose another name")
    file = None if parameters.patches is None else read_patches(Path(parameters.patches))
    if file is not None:
        parameters = as_suggested(parameters, file)
    channel = output_index(bundle.card, parameters.target[0] if parameters.target else None)
    for text in volume.warnings:
        context.warn(text)
    grid = sees(bundle.card, volume)
    boxes, masks = [], []
    if file is not None and parameters.labels is not None:
        check_source(file, volume)
        boxes = [patch.voxels for patch in file.patches]
        masks = read_labels(Path(parameters.labels), file.patches, volume, instances=parameters.instances)
        _warn_of_starts(file, masks, bundle.card.outputs[channel].name, context)
    others = [o.name for i, o in enumerate(bundle.card.outputs) if i != channel]
    if masks and others:
        context.warn(
            f"only {bundle.card.outputs[channel].name} was labelled; {', '.join(others)} may have become worse: check the result"
        )
    part = (
        None if parameters.box is None else grid.box_from_level(parse_box(parameters.box), parameters.level)
    )
    torch.set_num_threads(context.threads)
    schedule = TuningSchedule(parameters.steps, parameters.learning_rate, parameters.seed)
    # A volume with room for a few only will do: 'adapt suggest' took it, and its patches are labelled.
    unlabelled = sample_patches(grid, bundle.card, UNLABELLED, parameters.seed, part, fewest=1)
    examples = make_examples(grid, bundle.card, boxes, masks)
    if bad := sum(example.not_finite for example in examples):
        context.warn(f"in and around the patches, {told_of_not_finite(bad)}")
    tuning = FineTuning(
        bundle.load_network(),
        examples,
        channel,
        unlabelled,
        schedule,
        context.device,
        {
            "the model": bundle.hash,
            "an option": f"{schedule} {channel} {part}",
            "the patches": " ".join(map(str, boxes)),
            "the labels": digest(*masks),
            "the image": digest(*(example.image for example in examples), unlabelled),
        },
    )
    total = (tuning.folds + 1) * schedule.steps

    def report(stage: int, step: int, values: dict[str, float]) -> None:
        name = "patch held back" if "choose" in values else "loss"
        series = f"patch {stage + 1}" if stage < tuning.folds else "all patches"
        context.metric(name, step, {series: next(iter(values.values()))})
        context.progress(stage * schedule.steps + step, total, "fine-tuning")
        context.check_cancelled()

    outcome = tuning.run(context.scratch / "checkpoint.safetensors", report)
    network = as_shipped(outcome.network)
    scores = {name: figures(curve) for name, curve in outcome.curves.items()}
    card = _card(bundle, out, channel, outcome, scores, parameters, volume.name, len(boxes))
    context.write_now()
    made = write_bundle(out, card, network.state_dict())
    box = None if parameters.box is None else parse_box(parameters.box)
    part_of = [Part(volume, box, parameters.level)]
    try:
        made = write_signature(made, part_of, seed=parameters.seed, device=context.device)
    except UserError as error:  # the common network may see less in the volume than the model does
        context.warn(f"the new model has no signature, so 'adapt rank' cannot judge it: {error}")
    verdict = in_words(outcome, scores)
    output = bundle.card.outputs[channel].name
    if outcome.kept != "trained" and boxes:
        context.warn(verdict)
    context.result(
        "model",
        made.path,
        made.card.name,
        text=verdict,
        table=as_rows(scores, outcome.kept),
        task="segment",
        parameters={
            "model": made.reference,
            "source": parameters.on,
            "target": ["neurons" if parameters.instances else shown(output)],
        },
    )
    return {
        "task": "adapt train",
        "model": str(made.path),
        "patches": len(boxes),
        "kept": outcome.kept,
        "updates": outcome.update,
        "held_out": outcome.held_out,
        "scores": scores,
        "verdict": verdict,
        "warnings": context.warnings,
    }


def _warn_of_starts(file: PatchFile, masks: list[Mask], output: str, context: Context) -> None:
    """Labels that nobody has changed teach a model what it says already."""
    pairs = zip(file.patches, masks, strict=True)
    same = [patch.id for patch, mask in pairs if patch.starts.get(output) == digest(mask)]
    if same:
        which = (
            "all patches" if len(same) == len(masks) else f"{', '.join(same)} ({len(same)} of {len(masks)})"
        )
        context.warn(
            f"the labels of {which} are still those of 'adapt suggest', the model's own: correct them where they are wrong, "
            "or scores only tell how well the new model agrees with the old one"
        )


def as_suggested(parameters: AdaptTrain, file: PatchFile) -> AdaptTrain:
    """Where it is not said what the labels are of: what the patches were suggested for.

    Raises:
        UserError: there are labels of several outputs.
    """
    target = parameters.target
    if not target:
        names = [shown(name) for name in file.outputs or ([file.target] if file.target else [])]
        if len(names) > 1:
            raise UserError(
                f"there are labels of {', '.join(names)} for these patches: name one with --target"
            )
        target = tuple(names)
    instances = parameters.instances or file.instances
    return parameters.model_copy(update={"target": target, "instances": instances})


def _card(
    bundle: Bundle,
    out: Path,
    channel: int,
    outcome: Outcome,
    scores: dict[str, dict[str, float]],
    parameters: AdaptTrain,
    name: str,
    count: int,
) -> Card:
    """The parent's card as the new model's: its output's threshold, what was learned, of whom it was made."""
    old = bundle.card
    outputs = list(old.outputs)
    if outcome.kept != "source" and scores:
        threshold = min(max(int(scores[outcome.kept]["threshold"]), 1), 255)
        outputs[channel] = outputs[channel].model_copy(update={"threshold": threshold})
    facts = {
        "made_by": "adapt train",
        "parent": {"name": bundle.path.name, "version": old.version, "hash": bundle.hash},
        "on": name,
        "patches": count,
        "output": old.outputs[channel].name,
        **parameters.model_dump(include={"steps", "learning_rate", "seed", "instances", "box"}),
        "updates": outcome.update,
        "kept": outcome.kept,
        "held_out": outcome.held_out,
        "scores": scores,
    }
    return old.model_copy(
        update={  # the name was checked before anything was learned
            "name": out.name,
            "version": "1",
            "description": f"{old.description.rstrip('.')}; adapted to {name} with {count} labelled patches.",
            "outputs": tuple(outputs),
            "scores": (),
            "calibration": None,
            "companion": None,
            "signature": None,
            "lineage": (*old.lineage, facts),
        }
    )
