"""Make EM from an X-ray volume, with an uncertainty for every voxel (:mod:`connectoscope.xray2em`).

X-Ray2EM (arXiv 2303.00882): an ensemble of networks that each predict mean and spread. ``aleatoric_sd`` is the spread that
the scan leaves open, ``epistemic_sd`` that between networks, large on what they were not trained on; both are calibrated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from connectoscope.tasks.base import (
    MenuEntry,
    OnVolume,
    Task,
    ZarrName,
    length,
    open_source,
    parameter,
    skip_corrupt,
)

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class Reconstruct(OnVolume):
    """An EM volume and its uncertainty from an X-ray volume."""

    source: str = parameter(
        role="source", argument=True, help="X-ray volume, dense stain dark: file, folder, URL or sample:NAME."
    )
    destination: ZarrName = parameter(
        role="destination",
        argument=True,
        help="OME-Zarr to write, NAME.ome.zarr: channels em (0-1), aleatoric_sd and epistemic_sd.",
    )
    model: str = parameter("xray2em-fib", role="model", help="Model: a name from 'models list' or a folder.")
    resolution: Annotated[str | None, length] = parameter(
        None,
        help="Resolution of the scan, for example 90nm, if known: a warning tells when the model was not trained for it.",
    )
    exact: bool = parameter(
        False,
        advanced=True,
        help="Read the full receptive field around each tile: slower; the result then depends on the tiles only by rounding.",
    )
    skip_corrupt: bool = skip_corrupt()


def run(parameters: Reconstruct, context: Context) -> dict[str, Any]:
    """Make or go on with the destination.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
    """
    from connectoscope.xray2em.reconstruct import reconstruct
    from connectoscope.zoo import find_model

    volume = open_source(parameters, parameters.source, skip_corrupt=parameters.skip_corrupt)
    return reconstruct(volume, find_model(parameters.model), parameters, context)


TASK = Task(
    name="reconstruct",
    summary="Make EM from an X-ray volume, with its uncertainty.",
    parameters=Reconstruct,
    run=run,
    destination="destination",
    menu=(MenuEntry("Reconstruct", "X-ray to EM"),),
)
