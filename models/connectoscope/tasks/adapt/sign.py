"""Give a model the signature of its training data, by which 'adapt rank' judges it (:mod:`connectoscope.adaptation`).

Models trained with connectoscope have one; this is for other models, and for when the common network changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import NewModel, OnVolume, Task, open_source, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class AdaptSign(OnVolume):
    """A model with a signature, from a model and what it was trained on."""

    model: str = parameter(role="model", argument=True, help="Model: a name from 'models list' or a folder.")
    destination: NewModel = parameter(
        role="new_model",
        argument=True,
        help="New model with the signature: a folder, or a bare name among your own models.",
    )
    on: str = parameter(
        role="source",
        label="Volume",
        help="Volume that the model was trained on: file, folder, URL or sample:NAME; with --box, only that part.",
    )
    vectors: int = parameter(
        512, ge=16, le=1024, advanced=True, help="Number of patches that make the signature."
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed of the patches that are drawn.")


def run(parameters: AdaptSign, context: Context) -> dict[str, Any]:
    """Embed patches of the volume, write the model with their vectors.

    Raises:
        UserError: destination exists, or the volume will not do.
    """
    from pathlib import Path

    import torch

    from connectoscope.adaptation.signature import COMMON, Part, write_signature
    from connectoscope.volumes.geometry import parse_box
    from connectoscope.zoo import find_model
    from connectoscope.zoo.writing import check_new

    out = Path(parameters.destination)
    check_new(out, replace=context.may_overwrite)
    torch.set_num_threads(context.threads)
    bundle = find_model(parameters.model)
    volume = open_source(parameters, parameters.on)
    for text in volume.warnings:
        context.warn(text)
    part = Part(volume, None if parameters.box is None else parse_box(parameters.box), parameters.level)
    context.write_now()
    signed = write_signature(
        bundle, [part], out, count=parameters.vectors, seed=parameters.seed, device=context.device
    )
    signature = signed.card.signature
    if signature is None or signature.common is None:
        context.warn(
            f"without the model '{COMMON}' there are no common features; 'adapt rank' can judge this model with "
            "--space own only"
        )
    context.result("model", signed.path, signed.path.name)
    return {
        "task": "adapt sign",
        "model": str(signed.path),
        "signature": None if signature is None else signature.model_dump(mode="json"),
        "warnings": context.warnings,
    }


TASK = Task(
    name="adapt sign",
    summary="Add to a model the signature of its training data, which 'adapt rank' compares.",
    parameters=AdaptSign,
    run=run,
    destination="destination",
)
