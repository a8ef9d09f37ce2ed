"""Fine-tune a model on a few labelled patches of a volume (:mod:`connectoscope.adaptation.finetune`).

All weights are trained, in small steps; when to stop is found by holding back each patch once. Where the new weights are
no better on the labelled patches, the old ones are kept and the summary says so. Without labels only the batch-norm
statistics are adapted. NeuroADDA (Sawmya, Athey, Liu, Shavit 2025, arXiv 2503.06196).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from connectoscope.errors import UserError
from connectoscope.tasks.base import MenuEntry, NewModel, OnVolume, Task, open_source, parameter

if TYPE_CHECKING:
    from pathlib import Path

    from connectoscope.adaptation.finetune import Outcome
    from connectoscope.adaptation.patches import PatchFile
    from connectoscope.evaluation.voxels import PrecisionRecall
    from connectoscope.jobs.context import Context
    from connectoscope.zoo import Bundle, Card

UNLABELLED = 64  # patches of the target that give the statistics
WORDS = {
    "source": "the old weights are kept: fine-tuning did not improve them on the labelled patches",
    "statistics": "the old weights are kept, with batch-norm statistics of this volume",
    "trained": "the fine-tuned weights are kept",
}


class AdaptTrain(OnVolume):
    """A model of this volume, from a model and a few labelled patches."""

    model: str = parameter(role="model", argument=True, help="Model: a name from 'models list' or a folder.")
    destination: NewModel = parameter(
        role="new_model", argument=True, help="New model: a folder, or a bare name among your own models."
    )
    on: str = parameter(
        role="source", label="Volume", help="Volume to adapt to: file, folder, URL or sample:NAME."
    )
    patches: str | None = parameter(
        None,
        role="recipe",
        help="Patches of 'adapt suggest' (JSON). Default: none; then only the batch-norm statistics are adapted.",
    )
    labels: str | None = parameter(
        None,
        role="truth",
        help="Labels of the patches: a volume with the voxels of the image, or a folder with a file ID.tif for each patch.",
    )
    target: tuple[str, ...] = parameter(
        (),
        help="The output of the model that the labels show. Default: that of the patches, else membranes.",
    )
    instances: bool = parameter(
        False,
        help="The labels are instances (neurons, cells), as those of patches that were suggested with --instances; their "
        "boundaries are learned.",
    )
    steps: int = parameter(150, ge=1, help="Training steps, at most.")
    learning_rate: float = parameter(3e-4, gt=0, le=1, advanced=True, help="Learning rate.")
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed of the patches and their augmentation.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.patches is None) != (self.labels is None):
            raise UserError(
                "--patches and --labels go together; without both, only the batch-norm statistics are adapted"
            )
        if len(self.target) > 1:
            raise UserError("labels are of one output: give --target once")
        return self


def run(parameters: AdaptTrain, context: Context) -> dict[str, Any]:
    """Check everything, train, compare before and after, write the bundle with lineage and signature.

    Goes on from the job's checkpoint, exactly, where there is one.

    Raises:
        UserError: destination exists, or model, volume, patches and labels do not go together.
    """
    from pathlib import Path

    import torch

    from connectoscope.adaptation.examples import make_examples
    from connectoscope.adaptation.features import sample_patches, sees
    from connectoscope.adaptation.finetune import FineTuning, TuningSchedule
    from connectoscope.adaptation.labels import output_index, read_labels
    from connectoscope.adaptation.patches import check_source, read_patches
    from connectoscope.adaptation.signature import Part, write_signature
    from connectoscope.blockwise.tile import told_of_not_finite
    from connectoscope.segmentation.targets import shown
    from connectoscope.training.checkpoint import digest
    from connectoscope.training.finish import as_shipped
    from connectoscope.volumes.geometry import parse_box
    from connectoscope.zoo import find_model
    from connectoscope.zoo.writing import check_new, write_bundle

    out = Path(parameters.destination)
    check_new(out, replace=context.overwrite or context.resumed)
    bundle = find_model(parameters.model)
    if out.resolve() == bundle.path.resolve():
        raise UserError(f"{out} is the model itself, which is never changed; choose another name")
    file = None if parameters.patches is None else read_patches(Path(parameters.patches))
    if file is not None:
        parameters = _as_suggested(parameters, file)
    channel = output_index(bundle.card, parameters.target[0] if parameters.target else None)
    volume = open_source(parameters, parameters.on)
    for text in volume.warnings:
        context.warn(text)
    grid = sees(bundle.card, volume)
    boxes, masks = [], []
    if file is not None and parameters.labels is not None:
        check_source(file, volume)
        boxes = [patch.voxels for patch in file.patches]
        masks = read_labels(Path(parameters.labels), file.patches, volume, instances=parameters.instances)
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
    scores = {name: _figures(curve) for name, curve in outcome.curves.items()}
    card = _card(bundle, out, channel, outcome, scores, parameters, volume.name, len(boxes))
    made = write_bundle(out, card, network.state_dict())
    box = None if parameters.box is None else parse_box(parameters.box)
    part_of = [Part(volume, box, parameters.level)]
    try:
        made = write_signature(made, part_of, seed=parameters.seed, device=context.device)
    except UserError as error:  # the common network may see less in the volume than the model does
        context.warn(f"the new model has no signature, so 'adapt rank' cannot judge it: {error}")
    verdict = _verdict(outcome, scores)
    output = bundle.card.outputs[channel].name
    if outcome.kept != "trained" and boxes:
        context.warn(verdict)
    context.result(
        "model",
        made.path,
        made.card.name,
        text=verdict,
        table=_rows(scores, outcome.kept),
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


def _figures(curve: PrecisionRecall) -> dict[str, float]:
    f1, threshold = curve.best()
    return {
        "average_precision": round(curve.average_precision, 4),
        "f1": round(f1, 4),
        "threshold": threshold,
    }


def _rows(scores: dict[str, dict[str, float]], kept: str) -> list[list[str]]:
    """Before and after, as text: (what, before, after)."""
    if not scores:
        return []
    before, after = scores["source"], scores[kept]
    return [
        [name, f"{before[key]:.3f}", f"{after[key]:.3f}"]
        for name, key in (("average precision", "average_precision"), ("best F1", "f1"))
    ]


def _verdict(outcome: Outcome, scores: dict[str, dict[str, float]]) -> str:
    if not scores:
        return "the batch-norm statistics are those of this volume now; without labels it is not known whether that is better."
    where = "patches held back" if outcome.held_out else "the labelled patches themselves"
    figures = ", ".join(f"{name} {s['f1']:.3f}" for name, s in scores.items())
    return f"{WORDS[outcome.kept]} (best F1 on {where}: {figures})."


def _as_suggested(parameters: AdaptTrain, file: PatchFile) -> AdaptTrain:
    """Where it is not said what the labels are of: what the patches were suggested for.

    Raises:
        UserError: there are labels of several outputs.
    """
    from connectoscope.segmentation.targets import shown

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


def render(summary: dict[str, Any]) -> str:
    """The model, what is kept, before and after."""
    lines = [summary["model"], summary["verdict"]]
    lines += [
        f"{name:<18} {before:>7} {after:>7}"
        for name, before, after in _rows(summary["scores"], summary["kept"])
    ]
    return "\n".join(lines)


TASK = Task(
    name="adapt train",
    summary="Fine-tune a model on a few labelled patches of a volume.",
    parameters=AdaptTrain,
    run=run,
    destination="destination",
    menu=(MenuEntry("Adapt", "Train on Patches"),),
    render=render,
)
