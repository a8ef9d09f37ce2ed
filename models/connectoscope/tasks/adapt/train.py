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
    from connectoscope.jobs.context import Context


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
    from connectoscope.adaptation.run import adapt
    from connectoscope.zoo import find_model

    return adapt(open_source(parameters, parameters.on), find_model(parameters.model), parameters, context)


def render(summary: dict[str, Any]) -> str:
    """The model, what is kept, before and after."""
    from connectoscope.adaptation.verdict import as_rows

    lines = [summary["model"], summary["verdict"]]
    lines += [
        f"{name:<18} {before:>7} {after:>7}"
        for name, before, after in as_rows(summary["scores"], summary["kept"])
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
