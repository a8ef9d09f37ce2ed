"""Give a model a companion: a small network that sees coarsely where the model would find something.

It learns from the model itself on a volume, without labels (:mod:`connectoscope.cascade.distillation`). Training takes
minutes; a run that was cancelled starts over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import NewModel, OnVolume, Task, open_source, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class TrainGate(OnVolume):
    """A model with a companion, from a model and a volume."""

    model: str = parameter(role="model", argument=True, help="Model: a name from 'models list' or a folder.")
    destination: NewModel = parameter(
        role="new_model",
        argument=True,
        help="New model with the coarse network: a folder, or a bare name among your own models.",
    )
    on: str = parameter(
        role="source",
        label="Volume",
        help="Volume to learn on, like those that the cascade will search: file, folder, URL or sample:NAME.",
    )
    target: tuple[str, ...] = parameter(
        (),
        help="Output that the coarse network looks for (repeat for several). "
        "Default: each that the model makes objects of.",
    )
    megavoxels: float = parameter(
        24.0, gt=0, help="How much of the volume the model runs on, in millions of voxels of the model."
    )
    steps: int = parameter(1000, ge=1, advanced=True, help="Training steps.")
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed of the boxes and patches that are drawn.")
    factor: str | None = parameter(
        None,
        advanced=True,
        help="Voxels of the model per voxel of the coarse level, z,y,x. Default: the first level of a pyramid.",
    )


def run(parameters: TrainGate, context: Context) -> dict[str, Any]:
    """Run the model on boxes of the volume, train the companion, score it on boxes kept back, write the bundle.

    Raises:
        UserError: the model makes no objects, finds none in the volume, or source or destination will not do.
    """
    import time
    from pathlib import Path

    from connectoscope.cascade.distillation import Student, Teacher, ranking, score_cells, split
    from connectoscope.cascade.learned import gate_geometry, parse_factor
    from connectoscope.errors import UserError
    from connectoscope.networks.precision import best_precision
    from connectoscope.segmentation.setup import set_up
    from connectoscope.segmentation.targets import choose_targets
    from connectoscope.volumes.geometry import sizes_text
    from connectoscope.zoo import find_model
    from connectoscope.zoo.card import Architecture, Companion, Score
    from connectoscope.zoo.writing import check_new, write_companion

    started = time.monotonic()
    out = Path(parameters.destination)
    check_new(out, replace=context.may_overwrite)
    bundle = find_model(parameters.model)
    targets, warnings = choose_targets(bundle.card, parameters.target, None, None)
    if not targets:
        raise UserError(
            f"model '{bundle.card.name}' makes no objects of {', '.join(parameters.target) or 'anything'}, "
            "so there is nothing that a gate could look for; choose another model or --target"
        )
    volume = open_source(parameters, parameters.on)
    setup = set_up(volume, bundle, box=parameters.box, level=parameters.level, exact=False)
    for text in (*setup.warnings(), *warnings):
        context.warn(text)
    context.phases(labelling=50, training=50)

    geometry = gate_geometry(bundle.card.inputs.voxel_size, len(targets), parse_factor(parameters.factor))
    teacher = Teacher(setup.grid, geometry, targets, setup.intensity(), setup.voxel_nm3)
    tile, boxes = teacher.boxes(setup.box, bundle.card, parameters.megavoxels, parameters.seed)
    predictor = bundle.predictor(
        tile=tile, device=context.device, precision=best_precision(context.device), threads=context.threads
    )
    examples = []
    for done, box in enumerate(boxes):
        context.progress(done, len(boxes), "labelling")
        context.check_cancelled()
        examples.append(teacher.example(box, predictor))
    learning, held_out = split(examples)
    missing = [t.name for c, t in enumerate(targets) if not any(e.objects[c] for e in learning)]
    if missing:
        others = [t.name for t in targets if t.name not in missing]
        only = f", or learn only --target {' --target '.join(others)}" if others else ""
        raise UserError(
            f"model '{bundle.card.name}' finds no {missing[0]} in {len(learning)} boxes "
            f"({sum(b.size for b in boxes) / 1e6:.3g} megavoxels) of {volume.name}, so a gate cannot learn them: "
            f"take a volume that has some, more --megavoxels{only}"
        )

    student = Student(geometry, learning, parameters.steps, parameters.seed, context.device)

    def report(step: int, loss: float) -> None:
        context.metric("gate", step, {"loss": loss})
        context.progress(step, parameters.steps, "training")
        context.check_cancelled()

    student.run(report)
    network = student.finished()
    cells = score_cells(network, geometry, held_out, context.device)
    scores = {t.name: ranking(*cell) for t, cell in zip(targets, cells, strict=True)}
    counts = {t.name: (len(p), int(p.sum())) for t, (_, p) in zip(targets, cells, strict=True)}
    for name, row in scores.items():
        if not row:
            total, positive = counts[name]
            context.warn(f"{name}: no score, {positive} of the {total} regions that were held back hold any")
    training = {
        "model": bundle.hash,
        "thresholds": {t.name: t.threshold for t in targets},
        "min_volume_nm3": {t.name: t.min_volume_nm3 for t in targets},
        "data": [volume.name],
        "box": str(setup.box),
        "boxes": len(learning),
        "megavoxels": round(sum(b.size for b in boxes) / 1e6, 3),
        "steps": parameters.steps,
        "seed": parameters.seed,
        "seconds": round(time.monotonic() - started),
    }
    parent = bundle.path.name
    cell = sizes_text(geometry.window)
    card_scores = [
        Score(
            metric=f"{name} {metric}",
            value=round(value, 4),
            data=volume.name,
            split=f"{len(held_out)} boxes held back: {counts[name][0]} regions of {cell} coarse voxels, "
            f"{counts[name][1]} positive",
            command=f"connectoscope train-gate {parent} OUT --on {volume.name}{_box(parameters.box)}",
        )
        for name, row in scores.items()
        for metric, value in row.items()
    ]
    companion = Companion(
        architecture=Architecture(name="unet3d", arguments=geometry.arguments.to_json()),
        factor=geometry.factor,
        voxel_size=geometry.voxel_size,
        outputs=tuple(t.name for t in targets),
        halo=geometry.halo,
        training=training,
        scores=tuple(card_scores),
    )
    context.write_now()
    bundle = write_companion(out, bundle, companion, network.state_dict())
    context.result("model", bundle.path, bundle.path.name)
    return {
        "task": "train-gate",
        "model": str(bundle.path),
        "seconds": round(time.monotonic() - started, 1),
        "factor": geometry.factor,
        "halo": geometry.halo,
        "boxes": len(boxes),
        "cells": counts,
        "scores": scores,
        "warnings": context.warnings,
    }


def _box(box: str | None) -> str:
    return "" if box is None else f" --box {box}"


TASK = Task(
    name="train-gate",
    summary="Train the small coarse network that a cascade uses in front of a model.",
    parameters=TrainGate,
    run=run,
    destination="destination",
)
