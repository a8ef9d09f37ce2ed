"""``tables/<target>.csv``: one line an object (docs/contracts.md, "Tables")."""

from __future__ import annotations

from collections.abc import Sequence

from connectoscope.blockwise.grid import Grid
from connectoscope.segmentation.components import Objects
from connectoscope.segmentation.trust import COLUMNS
from connectoscope.volumes.geometry import Box, length_text, number_text

HEADER = "id,z,y,x,unit,volume_nm3,mean_probability,z0,z1,y0,y1,x0,x1"


def objects_table(
    objects: Objects,
    grid: Grid,
    box: Box,
    voxel_nm3: float,
    trust: Sequence[tuple[str, ...]] | None = None,
) -> str:
    """The table as text.

    Columns: id; centre of mass z, y, x in world ``unit``; volume in nm³; mean of the stored probability (0 to 1);
    bounding box, half-open, in voxels of level 0 of the source; of objects in a reconstruction, mean and largest total
    standard deviation of the voxels, and whether the mean is one that its model's card trusts (yes or no).

    Args:
        objects: In voxels of the result.
        grid: The model grid.
        box: Where the result lies on it.
        voxel_nm3: Volume of one voxel.
        trust: The last columns of each object (:mod:`connectoscope.segmentation.trust`).
    """
    lines = [HEADER if trust is None else ",".join([HEADER, *COLUMNS])]
    unit = grid.volume.unit or ""
    for i in range(len(objects)):
        voxels = int(objects.voxels[i])
        centre = [
            grid.translation[a] + (box.start[a] + int(objects.sums[i, a]) / voxels) * grid.scale[a]
            for a in range(3)
        ]
        low, high = objects.low[i].tolist(), objects.high[i].tolist()
        source = grid.box_in_level0(Box(tuple(low), tuple(high)).shifted(box.start))
        z, y, x = (length_text(value, unit, 7) for value in centre)
        volume, mean = map(number_text, (voxels * voxel_nm3, int(objects.probability[i]) / voxels / 255))
        ends = (str(n) for pair in zip(source.start, source.stop, strict=True) for n in pair)
        own = trust[i] if trust is not None else ()
        lines.append(",".join([str(i + 1), z, y, x, unit, volume, mean, *ends, *own]))
    return "\n".join(lines) + "\n"
