"""How uncertain the image under each object is: of objects in EM that was made from X-ray (:mod:`connectoscope.xray2em`)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.blockwise.destination import write_file
from connectoscope.blockwise.engine import Output, Phase
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.plan import Block
from connectoscope.errors import UserError
from connectoscope.volumes import Volume, open_volume, read_marks
from connectoscope.volumes.corrupt import chunk_name
from connectoscope.volumes.geometry import Box, Index3

COLUMNS = ("mean_sd", "max_sd", "trusted")


def is_reconstruction(path: str) -> bool:
    """Whether the volume at ``path`` was made by ``reconstruct``."""
    try:
        return bool(read_marks(path).get("request", {}).get("task") == "reconstruct")
    except (UserError, AttributeError):
        return False


def trusted_sd(marks: Mapping[str, Any]) -> float:
    """The sd that 99 % of the voxels stayed below when the model was calibrated; of the marks of a reconstruction."""
    return float(marks["calibration"]["trusted_sd"])


@dataclass(frozen=True)
class Uncertainty:
    """Total standard deviation of a reconstruction, √(aleatoric² + epistemic²), in its intensities (0 to 1).

    Attributes:
        aleatoric, epistemic: On the grid of the segmentation.
        trusted: Objects whose mean is above it are not trusted.
    """

    aleatoric: Grid
    epistemic: Grid
    trusted: float

    @classmethod
    def of(cls, volume: Volume, grid: Grid) -> Uncertainty | None:
        """Of ``volume``, seen as ``grid`` sees it; None where it is no reconstruction."""
        if not is_reconstruction(volume.source):
            return None
        sds = [open_volume(volume.source, channel=f"{part}_sd") for part in ("aleatoric", "epistemic")]
        if volume.skipped is not None:
            sds = [sd.skipping_corrupt() for sd in sds]
        aleatoric, epistemic = (Grid(sd, grid.level, grid.factor) for sd in sds)
        return cls(aleatoric, epistemic, trusted_sd(read_marks(volume.source)))

    def read(self, box: Box) -> tuple[NDArray[np.float32], list[str]]:
        """The sd in ``box``, infinite where nothing is known, and the names of corrupt chunks that it was not read from."""
        sd = np.hypot(self.aleatoric.read(box), self.epistemic.read(box))
        sd[np.isnan(sd)] = np.inf  # infinity, resampled
        skipped = []
        for part, name in ((self.aleatoric, "aleatoric_sd"), (self.epistemic, "epistemic_sd")):
            for gap in part.gaps(box):
                sd[gap.within(box).slices] = np.inf
            skipped += [f"{chunk_name(chunk, part.level)} of {name}" for chunk in part.skipped_in(box)]
        return sd, skipped

    def phase(
        self, name: str, labels: ts.TensorStore, start: Index3, blocks: list[Block], scratch: Path
    ) -> Phase[Any]:
        """What each block adds to its objects, into ``scratch``.

        Args:
            labels: Finished labels (z, y, x); its voxel 0 is ``start`` on the grid.
        """
        scratch.mkdir(parents=True, exist_ok=True)

        def read(block: Block) -> tuple[NDArray[Any], NDArray[np.float32], list[str]]:
            found = np.asarray(labels[block.write.slices].read().result())
            if not found.any():
                return found, np.zeros(found.shape, np.float32), []
            return found, *self.read(block.write.shifted(start))

        def compute(_: Block, read: tuple[NDArray[Any], NDArray[np.float32], list[str]]) -> Output:
            found, sd, skipped = read
            inside = found > 0
            ids, which = np.unique(found[inside], return_inverse=True)
            if not len(ids):
                return Output(np.zeros(0, np.uint8))
            most = np.zeros(len(ids), np.float32)
            np.maximum.at(most, which, sd[inside])
            file = io.BytesIO()
            np.savez(file, ids=ids, sum=np.bincount(which, sd[inside]), most=most)
            data = np.frombuffer(file.getvalue(), np.uint8)
            return Output(data, {"skipped": skipped} if skipped else {})

        def write(block: Block, data: NDArray[Any]) -> None:
            if len(data):
                write_file(scratch / f"{block.id}.npz", data.tobytes())

        return Phase(name, blocks, read, compute, write)

    def columns(
        self, voxels: NDArray[np.int64], blocks: list[Block], scratch: Path, number: Callable[[float], str]
    ) -> list[tuple[str, ...]]:
        """:data:`COLUMNS` of each object as text; the phase must be complete.

        Args:
            voxels: Of each object.
        """
        total, most = np.zeros(len(voxels)), np.zeros(len(voxels), np.float32)
        for block in blocks:
            path = scratch / f"{block.id}.npz"
            if path.exists():
                with np.load(path, allow_pickle=False) as part:
                    rows = part["ids"].astype(np.int64) - 1
                    total[rows] += part["sum"]
                    most[rows] = np.maximum(most[rows], part["most"])
        mean = total / voxels
        return [
            (*(number(v) if v < math.inf else "inf" for v in (m, x)), "yes" if m <= self.trusted else "no")
            for m, x in zip(mean.tolist(), most.tolist(), strict=True)
        ]
