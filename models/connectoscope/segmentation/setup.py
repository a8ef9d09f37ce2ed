"""A model meets a volume: which grid, which part of it, which tiles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.destination import check_same
from connectoscope.blockwise.grid import Grid, choose_grid
from connectoscope.blockwise.plan import Lattice, Plan, Signature, chunk_of, library_versions
from connectoscope.networks.precision import best_precision
from connectoscope.networks.predictor import choose_tile
from connectoscope.volumes.corrupt import outside
from connectoscope.volumes.geometry import NANOMETRES, Box, Float3, parse_box
from connectoscope.volumes.ome_zarr_write import ImageSpec
from connectoscope.zoo.intensity import wanted_range

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.volumes import Volume
    from connectoscope.zoo import Bundle


@dataclass(frozen=True)
class Setup:
    """Everything about a run that follows from volume, model and box.

    Attributes:
        box: The part that is made, in voxels of ``grid``; voxel 0 of the result is its start.
    """

    volume: Volume
    bundle: Bundle
    grid: Grid
    box: Box
    lattice: Lattice

    @property
    def seen(self) -> Grid:
        """What the network sees."""
        return self.grid

    @property
    def voxel_nm(self) -> Float3:
        """Size of a voxel of the result."""
        z, y, x = (s * NANOMETRES[self.volume.unit or "nanometer"] for s in self.grid.scale)
        return (z, y, x)

    @property
    def voxel_nm3(self) -> float:
        """Volume of a voxel of the result."""
        z, y, x = self.voxel_nm
        return z * y * x

    @property
    def chunks_on_lattice(self) -> bool:
        """Whether every block fills whole chunks of the result."""
        chunk = chunk_of(self.lattice.core)
        return all(start % c == 0 for start, c in zip(self.box.start, chunk, strict=True))

    @property
    def box_of_blocks(self) -> Box:
        """The part that blocks are made of: :attr:`box`, or from the start of the block that holds its start."""
        if self.chunks_on_lattice:
            return self.box
        z, y, x = (i // c * c for i, c in zip(self.box.start, self.lattice.core, strict=True))
        return Box((z, y, x), self.box.stop)

    def image_of_blocks(self, destination: Path, scratch: Path) -> Path:
        """The image that blocks are written to: in scratch, where they do not fill whole chunks of the destination."""
        return destination if self.chunks_on_lattice else scratch / "lattice.zarr"

    def image(self, dtype: np.dtype[Any], **more: Any) -> ImageSpec:
        """An image on the grid of the result."""
        z, y, x = (
            t + i * s for t, i, s in zip(self.grid.translation, self.box.start, self.grid.scale, strict=True)
        )
        return ImageSpec(
            shape=self.box.shape,
            dtype=dtype,
            scale=self.grid.scale,
            translation=(z, y, x),
            unit=self.volume.unit,
            chunks=chunk_of(self.lattice.core),
            **more,
        )

    def intensity(self) -> tuple[float, float]:
        """(low, high) of the normalisation; reads a sample of the whole grid.

        Raises:
            UserError: the sample is constant or holds what is no number.
        """
        return wanted_range(self.bundle.card.inputs.normalisation, self._readable, self.seen.shape)

    def _readable(self, box: Box) -> NDArray[np.float32]:
        """Intensities of ``box`` without those of corrupt chunks, which say nothing of the tissue."""
        return outside(self.seen.read(box), box, self.seen.gaps(box))

    def warnings(self) -> list[str]:
        """One line each, for people: what was assumed of the volume, and that it was resampled."""
        note = self.seen.note(self.bundle.card.inputs.voxel_size)
        return [*self.volume.warnings, *([] if note is None else [note])]

    def facts(self) -> dict[str, Any]:
        """The grid in JSON, for the plan."""
        return {
            "level": self.grid.level,
            "factor": [str(f) for f in self.grid.factor],
            "shape": list(self.grid.shape),
            "box": str(self.box),
        }


def set_up(volume: Volume, bundle: Bundle, *, box: str | None, level: int, exact: bool) -> Setup:
    """Choose the grid that suits the model, and tiles that suit the grid.

    Args:
        box: ``z0:z1,y0:y1,x0:x1`` in voxels of ``level`` of the source; None: all of it.

    Raises:
        UserError: voxel size unknown or unsuitable, no such level, or the box is outside.
    """
    grid = choose_grid(volume, bundle.card.inputs.voxel_size, planes=bundle.card.planes)
    volume.level(level)  # one that is not there is refused without a box, too
    whole = Box.of(grid.shape)
    part = whole if box is None else grid.box_from_level(parse_box(box), level)
    halo, stride = bundle.halo(exact), bundle.card.stride
    # The tile follows from the whole grid, so that a box runs the same tiles.
    tile = choose_tile(grid.shape, halo, stride, bundle.tile_voxels())
    return Setup(volume, bundle, grid, part, Lattice(tile, halo, stride))


def device_of(bundle: Bundle, context: Context) -> str:
    """Where the network computes: one that was imported, on the processor unless onnxruntime has the device.

    Raises:
        UserError: the device was asked for and is not there, or not for such a network.
    """
    if not bundle.card.imported:
        return context.device
    from connectoscope.networks.onnx_network import device_for

    return device_for(context.device, asked=context.request.device != "auto")


def fix_plan(
    setup: Setup, identity: Signature, destination: Path, existing: dict[str, Any] | None, context: Context
) -> Plan:
    """The plan in the job folder where there is one, else a new one; refused where it is another run's.

    Args:
        identity: What the result is of.
        existing: Our marks of what is at the destination.
    """
    plan = Plan.read(context.job.plan_path)
    stored: Signature | None = plan.signature if plan else existing["signature"] if existing else None
    if stored is not None:
        check_same(destination, {k: stored.get(k) for k in identity}, identity)
    if existing is not None and stored is not None:
        check_same(destination, existing["signature"], stored)
    pinned = stored["plan"] if stored is not None else {}
    low, high = pinned["intensity"] if pinned else setup.intensity()
    fresh = Plan(
        lattice=setup.lattice,
        tile=setup.lattice.tile,
        grid=setup.facts(),
        precision="float32" if setup.bundle.card.imported else best_precision(context.device),
        device=device_of(setup.bundle, context),
        threads=pinned.get("threads", context.threads),
        intensity=(low, high),
        identity=identity,
        libraries=library_versions(),
    )
    if stored is not None:
        check_same(destination, stored, fresh.signature)
    now = fresh.halved(max(context.tile_scale, plan.revision if plan else 0))
    if now != plan:
        now.write(context.job.plan_path)
    return now
