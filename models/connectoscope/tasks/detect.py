"""Detect cells as points, or tissue as a mask, without a network.

Difference-of-Gaussians blobs and thresholds of brightness or texture (:mod:`connectoscope.detection`), block by block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from connectoscope.errors import UserError
from connectoscope.paths import expanded
from connectoscope.tasks.base import MenuEntry, Searching, Task, open_source, parameter

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context


class Detect(Searching):
    """Points or a mask from a volume."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    destination: str = parameter(
        role="destination",
        argument=True,
        help="File to write. Cells: a table NAME.csv, or NAME.xml as cellfinder reads it. Tissue: a mask NAME.ome.zarr.",
    )
    detector: Literal["cells", "tissue"] = parameter(
        "cells", help="What to look for: bright cell bodies or nuclei, or where there is tissue at all."
    )
    level: int = parameter(
        0, ge=0, help="Resolution level that --box refers to and cells are searched at (0 is the finest)."
    )
    diameter: float = parameter(14.0, gt=0, unit="µm", help="Diameter of the cells.")
    threshold: float = parameter(
        3.5,
        gt=0,
        help="How much a cell must stand out, in multiples of the noise of a voxel; a lower value finds more.",
    )
    cascade: str = parameter(
        "off",
        role="cascade",
        help="For cells, look coarsely first: off, auto (plan first, and use the plan only if it is worth it) or a plan "
        "file of plan-cascade.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        from connectoscope.blockwise.destination import check_zarr_name

        path = expanded(self.destination)
        if self.detector == "tissue":
            check_zarr_name(path)
            if self.cascade != "off" or self.within is not None:
                raise UserError("tissue is found at a coarse level anyway: leave out --cascade and --within")
        elif path.is_dir():
            raise UserError(f"{path} is a folder: name a file in it, for example {path / 'cells.csv'}")
        elif path.suffix.lower() not in (".csv", ".xml"):
            stem = path.name.removeprefix("sample:").split(".")[0]
            raise UserError(
                f"{path.name}: cells are points; name the file {stem}.csv, or {stem}.xml for cellfinder"
            )
        return self


def run(parameters: Detect, context: Context) -> dict[str, Any]:
    """Make or go on with the destination.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
    """
    from connectoscope.detection.run import detect_cells
    from connectoscope.detection.tissue import detect_tissue

    volume = open_source(parameters, parameters.source)
    detect = {"cells": detect_cells, "tissue": detect_tissue}[parameters.detector]
    return detect(volume, parameters, context)


TASK = Task(
    name="detect",
    summary="Find cells as points, or tissue as a mask.",
    parameters=Detect,
    run=run,
    destination="destination",
    ending=lambda values: ".csv" if values["detector"] == "cells" else ".ome.zarr",
    menu=(
        MenuEntry("Detect", "Cells", {"detector": "cells"}),
        MenuEntry("Detect", "Tissue", {"detector": "tissue"}),
    ),
)
