"""The model on what is visible: probabilities of a small box, for the window's preview.

Runs in a warm worker, ``connectoscope run --serve`` (:mod:`connectoscope.segmentation.preview`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import OnVolume, Task, open_source, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class Preview(OnVolume):
    """Probabilities of a small box, not kept."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    model: str = parameter("synapse-vnc", role="model", help="Model: a name from 'models list' or a folder.")


def run(parameters: Preview, context: Context) -> dict[str, Any]:
    """Write ``preview.ome.zarr`` (c, z, y, x; uint8) into the job folder.

    Raises:
        UserError: unusable input.
    """
    from connectoscope.segmentation.preview import preview
    from connectoscope.zoo import find_model

    volume = open_source(parameters, parameters.source)
    return preview(volume, find_model(parameters.model), parameters, context)


TASK = Task(
    name="preview",
    summary="Try a model on a small box; the result stays in the job folder.",
    parameters=Preview,
    run=run,
    hidden=True,
)
