"""Simulate X-ray holographic nano-tomography from isotropic EM.

Two methods (:mod:`connectoscope.xray2em`): 'wave' follows the beam: projection, Fresnel propagation to four distances,
photon counting, phase retrieval, filtered back-projection; 'surrogate' blurs, high-passes and adds noise that are
fitted to it, in a small part of the time. Dark is dense stain, as in the EM. The result is made in one go: the
destination appears when all of it is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from connectoscope.tasks.base import MenuEntry, Parameters, Task, ZarrName, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class SimulateXray(Parameters):
    """An X-ray volume from an EM volume."""

    source: str = parameter(
        role="source", argument=True, help="Isotropic EM volume: file, folder, URL or sample:NAME."
    )
    destination: ZarrName = parameter(
        role="destination", argument=True, help="OME-Zarr that is made, NAME.ome.zarr."
    )
    voxel_size: str = parameter("30nm", help="Voxel size of the X-ray volume, not finer than the EM.")
    method: Literal["wave", "surrogate"] = parameter(
        "wave", help="Wave model (slices of up to 512 x 512 X-ray voxels, minutes) or its cheap surrogate."
    )
    resolution: str | None = parameter(
        None,
        help="Blur of the surrogate, full width at half maximum; default: that of the wave model, 2 voxels. "
        "The wave model reports its own.",
    )
    counts: float = parameter(1e4, ge=10, le=1e7, help="Photons per pixel, distance and angle.")
    rings: float = parameter(
        0.01, ge=0, le=0.2, help="Spread of the detector's gain errors, which become rings; 0.005 to 0.02."
    )
    seed: int = parameter(0, ge=0, le=2**31 - 1, help="Seed of all that is random.")
    box: str | None = parameter(
        None, role="box", help="Only this part, in voxels of --level: z0:z1,y0:y1,x0:x1 (half-open)."
    )
    level: int = parameter(0, ge=0, help="Resolution level that is read, and that --box refers to.")
    source_voxel_size: str | None = parameter(
        None,
        role="voxel_size",
        advanced=True,
        help="Voxel size of the EM with unit, for example 8nm, where its file has none.",
    )
    channel: str | None = parameter(
        None, advanced=True, help="Channel by name or number, where there are several."
    )
    time: int | None = parameter(None, ge=0, advanced=True, help="Time point, where there are several.")
    delta_beta: float = parameter(
        24.0, ge=1, le=1000, advanced=True, help="Phase shift over absorption of the stained tissue."
    )


def run(parameters: SimulateXray, context: Context) -> dict[str, Any]:
    """Make the destination.

    Raises:
        UserError: unusable source, sizes that are not possible, or a destination that is something else.
    """
    from connectoscope.xray2em.run import simulate_xray

    return simulate_xray(parameters, context)


TASK = Task(
    name="simulate-xray",
    summary="Simulate an X-ray volume from isotropic EM.",
    parameters=SimulateXray,
    run=run,
    destination="destination",
    menu=(MenuEntry("Reconstruct", "Simulate X-ray"),),
)
