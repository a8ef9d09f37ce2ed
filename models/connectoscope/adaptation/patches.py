"""Which patches of a volume are worth labelling: median uncertainty and its rivals (NeuroADDA, arXiv 2503.06196).

Candidates are the cells of a lattice, so that no two overlap. "Median uncertainty" can be read in two ways; both are here::

    median-mean    the patches whose mean entropy is nearest to the median of all candidates' mean entropies
    top-median     the patches with the highest median (over their voxels) of the entropy

Rivals: at random; the highest mean entropy; k-centre in feature space (Sener and Savarese 2018, arXiv 1708.00489).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectoscope.errors import UserError
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Box, Float3, Index3, parse_box, sizes_text

Rule = Literal["median-mean", "top-median", "random", "highest", "k-centre"]
ANISOTROPIC = ((8, 128, 128), (8, 64, 64), (4, 64, 64))  # patches by data, large ones first
ISOTROPIC = ((48, 48, 48), (24, 48, 48), (24, 24, 24))
CHOICE = 4  # candidates for each patch wanted, or smaller ones are taken


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Patch(_Part):
    """A patch: ``box`` in level-0 voxels, half-open; ``world`` its outer faces, z y x, in the volume's unit.

    ``starts`` holds, by output, the digest of what the labels to begin with say: so labels that nobody has changed are known.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    box: str
    world: dict[Literal["start", "stop"], Float3] | None = None
    mean_entropy: float | None = None
    median_entropy: float | None = None
    starts: dict[str, str] = {}

    @property
    def voxels(self) -> Box:
        return parse_box(self.box)


class PatchSource(_Part):
    """The volume that patches were chosen in."""

    name: str
    path: str = ""
    shape: Index3
    voxel_size: Float3 | None = None
    unit: str | None = None


class PatchFile(_Part):
    """``OUT.json`` of ``adapt suggest``."""

    schema_: Literal[1] = Field(1, alias="schema")
    kind: Literal["patches"] = "patches"
    source: PatchSource
    model: dict[str, Any] = {}
    target: str | None = None
    outputs: tuple[str, ...] = ()  # of which there are labels to begin with
    instances: bool = False  # labels are numbers of cells or neurons
    labels: str | None = None  # folder with the labels; None: beside this file
    rule: str = ""
    seed: int = 0
    candidates: int = 0
    patches: tuple[Patch, ...] = Field(min_length=1)


def read_patches(path: Path) -> PatchFile:
    """The patches in a file.

    Raises:
        UserError: it cannot be read, is of another kind, or two patches have one id or overlap.
    """
    try:
        file = PatchFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"patches {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise UserError(
            f"{path} does not hold patches of 'adapt suggest' ({where}{first['msg']}); make them again"
        ) from None
    boxes = [(p.id, p.voxels) for p in file.patches]
    for index, (name, box) in enumerate(boxes):
        for other, taken in boxes[:index]:
            if name == other or box.intersection(taken).size:
                raise UserError(
                    f"patches {other} and {name} of {path} overlap; each must have a place of its own"
                )
    return file


def check_source(file: PatchFile, volume: Volume) -> None:
    """Raises UserError when the patches were chosen in another volume than this."""
    source = file.source
    if source.shape != volume.shape:
        raise UserError(
            f"the patches are of {source.name}, {sizes_text(source.shape)} voxels; "
            f"{volume.name} has {sizes_text(volume.shape)}: name the volume they were chosen in"
        )
    if source.unit == volume.unit and source.voxel_size is not None:
        own = volume.levels[0].scale
        if not np.allclose(own, source.voxel_size, rtol=1e-3):
            raise UserError(
                f"the patches are of {source.name} with voxels of {sizes_text(source.voxel_size)}, "
                f"{volume.name} has {sizes_text(own)} {volume.unit}: name the volume they were chosen in"
            )


def candidates(part: Box, scale: Float3, count: int, shape: Index3 | None = None) -> list[Box]:
    """Cells of one size, none over another, in the middle of ``part`` (level-0 voxels); raster order.

    Args:
        scale: Voxel size z, y, x, any unit: thick sections have flat patches.
        count: How many are wanted; smaller cells are taken where there would be little choice.
        shape: Of a cell; None: by the data.

    Raises:
        UserError: so many do not fit.
    """
    sizes = ANISOTROPIC if scale[0] > 2 * scale[2] else ISOTROPIC
    fitting = [
        (size, [n // s for n, s in zip(part.shape, size, strict=True)])
        for size in (sizes if shape is None else (shape,))
    ]
    size, counts = next((f for f in fitting if math.prod(f[1]) >= CHOICE * count), fitting[-1])
    if math.prod(counts) < count:
        raise UserError(
            f"{count} patches of {sizes_text(size)} voxels do not fit into {sizes_text(part.shape)} "
            f"without overlap ({math.prod(counts)} do): ask for fewer, or take more of the volume"
        )
    spare = [n - c * s for n, c, s in zip(part.shape, counts, size, strict=True)]
    first = [a + r // 2 for a, r in zip(part.start, spare, strict=True)]
    return [
        Box(start, start).grown((0, 0, 0), size)
        for start in (
            (first[0] + z * size[0], first[1] + y * size[1], first[2] + x * size[2])
            for z, y, x in np.ndindex(*counts)
        )
    ]


ENTROPY = np.zeros(256, np.float32)  # in bits, of a stored probability 0-255
_p = np.arange(1, 255) / 255
ENTROPY[1:255] = -(_p * np.log2(_p) + (1 - _p) * np.log2(1 - _p))


def choose(
    rule: Rule,
    count: int,
    mean_entropy: NDArray[np.float64],
    median_entropy: NDArray[np.float64],
    features: NDArray[np.float64],
    seed: int,
) -> list[int]:
    """Which candidates to label, the most wanted first; of equals the first in raster order.

    Args:
        mean_entropy: Of each candidate, (n,), over its voxels; bits.
        median_entropy: Likewise.
        features: Of each candidate, (n, features).
        seed: Of what is drawn at random.
    """
    if rule == "random":
        return [int(i) for i in np.random.default_rng(seed).permutation(len(mean_entropy))[:count]]
    if rule == "k-centre":
        return _k_centre(features, count)
    wanted = {
        "median-mean": np.abs(mean_entropy - np.median(mean_entropy)),
        "top-median": -median_entropy,
        "highest": -mean_entropy,
    }[rule]
    return [int(i) for i in np.argsort(wanted, kind="stable")[:count]]


def _k_centre(features: NDArray[np.float64], count: int) -> list[int]:
    """The one nearest to the mean, then always the one farthest from those taken."""
    chosen = [int(((features - features.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = np.full(len(features), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, ((features - features[chosen[-1]]) ** 2).sum(axis=1))
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return chosen


def world_of(box: Box, volume: Volume) -> dict[Literal["start", "stop"], Float3]:
    """World positions of the outer faces of a level-0 box, z y x, in the volume's unit."""
    level = volume.levels[0]

    def face(corner: Index3) -> Float3:
        z, y, x = (
            round(t + (i - 0.5) * s, 6)
            for t, i, s in zip(level.translation, corner, level.scale, strict=True)
        )
        return (z, y, x)

    return {"start": face(box.start), "stop": face(box.stop)}
