"""Simulate X-ray holographic nano-tomography from isotropic EM.

Two methods (:mod:`connectoscope.xray2em`): 'wave' follows the beam: projection, Fresnel propagation to four distances,
photon counting, phase retrieval, filtered back-projection; 'surrogate' applies a blur, a high-pass filter and noise that
were fitted to it, in a fraction of the time. Dense stain is dark, as in EM. The destination appears only when the whole
result is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from connectoscope.tasks.base import MenuEntry, Parameters, Task, ZarrName, length, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class SimulateXray(Parameters):
    """An X-ray volume from an EM volume."""

    source: str = parameter(
        role="source", argument=True, help="Isotropic EM volume: file, folder, URL or sample:NAME."
    )
    destination: ZarrName = parameter(
        role="destination", argument=True, help="OME-Zarr to write, NAME.ome.zarr."
    )
    voxel_size: Annotated[str, length] = parameter(
        "30nm", help="Voxel size of the X-ray volume, not finer than the EM."
    )
    method: Literal["wave", "surrogate"] = parameter(
        "wave", help="Wave model (slices of up to 512 x 512 X-ray voxels, minutes) or its fast surrogate."
    )
    resolution: Annotated[str | None, length] = parameter(
        None,
        help="Blur of the surrogate, full width at half maximum; default: that of the wave model, 2 voxels. "
        "The wave model reports its own.",
    )
    counts: float = parameter(1e4, ge=10, le=1e7, help="Photons per pixel, distance and angle.")
    rings: float = parameter(
        0.01,
        ge=0,
        le=0.2,
        help="Spread of the detector's gain errors, which become rings; realistic are 0.005 to 0.02.",
    )
    seed: int = parameter(0, ge=0, le=2**31 - 1, help="Random seed of noise and detector errors.")
    box: str | None = parameter(
        None,
        role="box",
        help="Only this part, in voxels of --level: z0:z1,y0:y1,x0:x1 (z1, y1, x1 not included).",
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
        24.0,
        ge=1,
        le=1000,
        advanced=True,
        label="δ/β",
        help="Phase shift over absorption (δ/β) of the stained tissue.",
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
