"""Segment a volume with a trained network: synapses, mitochondria, membranes, neurons.

A network gives every voxel a probability, block by block (:mod:`connectoscope.blockwise`), so that the volume may have
any size. Objects are connected components above a threshold (:mod:`connectoscope.segmentation`); neurons are
agglomerated from affinities or membranes (:mod:`connectoscope.segmentation.neurons`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import (
    MenuEntry,
    Searching,
    Task,
    ZarrName,
    open_source,
    parameter,
    skip_corrupt,
)

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class Segment(Searching):
    """Probabilities, labels and tables from a volume."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    destination: ZarrName = parameter(
        role="destination",
        argument=True,
        help="OME-Zarr to write, NAME.ome.zarr: probabilities, labels and tables.",
    )
    model: str = parameter("synapse-vnc", role="model", help="Model: a name from 'models list' or a folder.")
    target: tuple[str, ...] = parameter(
        (),
        help="What to find (repeat for several): synapses, mitochondria, membranes, neurons. "
        "Default: everything that the model makes objects of.",
    )
    threshold: int | None = parameter(
        None,
        ge=1,
        le=255,
        advanced=True,
        help="Voxels of at least this probability (0-255) are foreground; for neurons, parts are joined while their mean "
        "affinity is at least this. Default: the one on the model's card.",
    )
    min_volume: float | None = parameter(
        None,
        ge=0,
        unit="nm³",
        advanced=True,
        label="Smallest object",
        help="Objects smaller than this are dropped; for neurons, merged into a neighbour. Default: the one on the "
        "model's card.",
    )
    cascade: str = parameter(
        "off",
        role="cascade",
        help="Look coarsely first: off, auto (plan first, and use the plan only if it is worth it) or a plan file "
        "of plan-cascade.",
    )
    exact: bool = parameter(
        False,
        advanced=True,
        help="Read the full receptive field around each tile: slower; the result then depends on the tiles only by rounding.",
    )
    skip_corrupt: bool = skip_corrupt()


def run(parameters: Segment, context: Context) -> dict[str, Any]:
    """Make or go on with the destination: an image of all the model's outputs, labels and tables of the targets.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
    """
    from connectoscope.segmentation.run import segment
    from connectoscope.zoo import find_model

    volume = open_source(parameters, parameters.source, skip_corrupt=parameters.skip_corrupt)
    return segment(volume, find_model(parameters.model), parameters, context)


TASK = Task(
    name="segment",
    summary="Find synapses, mitochondria, membranes or neurons in a volume.",
    parameters=Segment,
    run=run,
    destination="destination",
    preflight="preflight",
    elsewhere=True,
    previews=True,
    menu=(
        MenuEntry("Segment", "Synapses", {"model": "synapse-vnc", "target": ("synapses",)}),
        MenuEntry("Segment", "Mitochondria", {"model": "synapse-vnc", "target": ("mitochondria",)}),
        MenuEntry("Segment", "Membranes", {"model": "synapse-vnc", "target": ("membranes",)}),
        MenuEntry("Segment", "Neurons", {"model": "neurons-fib", "target": ("neurons",)}),
    ),
)
