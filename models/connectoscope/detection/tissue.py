"""Where there is tissue: a mask at a coarse level, for reading and to restrict other tasks.

Two things tell tissue from its surroundings, and both are measured on a grid of some hundred voxels a side:

* *brightness*: the logarithm of the local mean. In fluorescence tissue is brighter than the medium around it.
* *texture*: the logarithm of the local standard deviation. In electron and X-ray microscopy tissue may be as bright as
  resin, but resin is smooth.

The histogram of each is measured on a sample of the whole grid. Otsu's threshold (Otsu 1979) parts it into two classes;
between their two modes lies a valley, whose deepest point is the threshold used, since classes of very different
width or size move Otsu's away from it. The feature with the deeper valley decides, and the summary says which. Where no
valley is as deep as half of the lower mode, the volume holds nothing but tissue as far as brightness and texture can
tell: all of it is marked, with a warning.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.blockwise.destination import (
    check_apart,
    check_same,
    check_writable,
    delete_locks,
    found_at,
    make_image,
)
from connectoscope.blockwise.engine import Engine, Output, Phase
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Block, Lattice, chunk_of
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.blockwise.tile import finite
from connectoscope.errors import UserError
from connectoscope.networks.normalise import sample_boxes
from connectoscope.volumes.geometry import Box, Index3, parse_box
from connectoscope.volumes.ome_zarr_write import ImageSpec, set_attributes
from connectoscope.volumes.pyramid import pyramid_factors

if TYPE_CHECKING:
    import tensorstore as ts

    from connectoscope.jobs.context import Context
    from connectoscope.tasks.detect import Detect
    from connectoscope.volumes import Volume

NAME = "tissue"
LONGEST = 512  # voxels of the mask along the longest axis
WINDOW = 2  # voxels per side of the local mean and standard deviation
DEPTH = 0.5  # of the valley between background and tissue, as a share of the lower mode
BINS, SMOOTH = 256, 4.0  # of the histograms: bins, and the width of their smoothing in bins
COUNTS = 4096  # that the range of floating-point intensities has at least, in the unit of their logarithm
RAREST = 0.005  # share of the voxels that the smaller class must have
CORE: Index3 = (64, 128, 128)
Feature = Literal["brightness", "texture"]


@dataclass(frozen=True)
class Rule:
    """How tissue is told: where ``feature`` is at least ``threshold``.

    Attributes:
        depth: Of the valley that the threshold lies in, 0 (none) to 1 (empty).
        low: Smallest intensity of the sample.
        unit: Of the intensities whose logarithm is taken.
    """

    feature: Feature
    threshold: float
    depth: float
    low: float
    unit: float = 1.0


def feature_of(array: NDArray[np.float32], feature: Feature, low: float, unit: float) -> NDArray[np.float32]:
    """Logarithm of the local mean above ``low``, or of the local standard deviation, of intensities in ``unit``.

    Args:
        array: Intensities (z, y, x); the result is smaller by ``WINDOW`` voxels per side.
    """
    size = 2 * WINDOW + 1
    inner = (slice(WINDOW, -WINDOW),) * 3
    wide = (array.astype(np.float64) - low) / unit
    mean = ndimage.uniform_filter(wide, size)
    if feature == "brightness":
        values = np.maximum(mean, 0)
    else:
        values = np.sqrt(np.maximum(ndimage.uniform_filter(wide**2, size) - mean**2, 0))
    logs: NDArray[np.float32] = np.log1p(values[inner]).astype(np.float32)
    return logs


def valley(values: NDArray[np.float32]) -> tuple[float, float]:
    """Threshold between the two classes of ``values``, and the depth of the valley it lies in; depth 0: one class."""
    low, high = (float(v) for v in np.quantile(values, (0.001, 0.999)))
    if not high > low:
        return low, 0.0
    counts, edges = np.histogram(values, BINS, (low, high))
    weight = ndimage.gaussian_filter1d(counts / counts.sum(), SMOOTH, mode="constant")
    cut = _otsu(weight)
    first, second = int(weight[:cut].argmax()), cut + int(weight[cut:].argmax())
    deepest = first + int(weight[first : second + 1].argmin())
    share = float(weight[:deepest].sum() / weight.sum())
    if not RAREST <= share <= 1 - RAREST:
        return low, 0.0
    depth = 1 - float(weight[deepest] / min(weight[first], weight[second]))
    return float((edges[deepest] + edges[deepest + 1]) / 2), depth


def _otsu(weight: NDArray[np.float64]) -> int:
    """Bins of the lower class, such that the variance between both classes is the greatest; at least 1."""
    bins = np.arange(len(weight))
    below, sums = np.cumsum(weight)[:-1], np.cumsum(weight * bins)[:-1]
    total, mean = weight.sum(), (weight * bins).sum()
    between = (mean * below / total - sums) ** 2 / np.maximum(below * (total - below), 1e-12)
    return int(between.argmax()) + 1


def choose_rule(grid: Grid) -> Rule:
    """Measure both features on a sample of ``grid``.

    Raises:
        UserError: the sample is constant.
    """
    halo = (WINDOW, WINDOW, WINDOW)
    tiles = [finite(grid.read(box.grown(halo)))[0] for box in sample_boxes(grid.shape)]
    low = min(float(tile.min()) for tile in tiles)
    if low == max(float(tile.max()) for tile in tiles):
        raise UserError(
            f"{grid.volume.name} is constant (every sampled voxel is {low:g}): there is nothing to find in it"
        )
    unit = _unit(grid, tiles, low)
    rules = []
    for feature in ("brightness", "texture"):
        values = np.concatenate([feature_of(tile, feature, low, unit).ravel() for tile in tiles])
        threshold, depth = valley(values)
        rules.append(Rule(feature, round(threshold, 6), round(depth, 6), low, unit))
    return max(rules, key=lambda rule: rule.depth)


def _unit(grid: Grid, tiles: list[NDArray[np.float32]], low: float) -> float:
    """1, or less where floating-point intensities have a narrow range, as 0 to 1.

    The features are logarithms of one more than a value, so as to take 0; where all values are far below 1 that is no
    logarithm, and the valley is gone. Whole numbers are counts and taken as they are.
    """
    if grid.volume.dtype.kind != "f":
        return 1.0
    values = np.concatenate([tile.ravel() for tile in tiles])
    # A few hot voxels are no range; where only they differ there is no other.
    span = float(np.quantile(values, 0.999)) - low or float(values.max()) - low
    return min(span / COUNTS, 1.0)


def coarse_grid(volume: Volume) -> Grid:
    """The grid of the mask: voxels as nearly cubic as powers of two allow, at most ``LONGEST`` along an axis.

    Raises:
        UserError: voxel size unknown, or a volume without depth.
    """
    finest, size = volume.levels[0], volume.voxel_size_nm()
    if min(finest.shape) < 2:
        raise UserError(f"{volume.name} is flat; tissue is looked for in volumes of at least 2 voxels a side")
    wanted = max(n * s for n, s in zip(finest.shape, size, strict=True)) / LONGEST

    def factors(level: int) -> tuple[Fraction, Fraction, Fraction]:
        scale = volume.voxel_size_nm(level)
        z, y, x = (Fraction(2 ** max(0, math.ceil(math.log2(wanted / s) - 1e-9))) for s in scale)
        return (z, y, x)

    def needless(level: int) -> bool:
        return any(s > 2 * max(wanted, f) for s, f in zip(volume.voxel_size_nm(level), size, strict=True))

    usable = [k for k in range(len(volume.levels)) if not needless(k)] or [0]
    level = min(usable, key=lambda k: (math.prod(factors(k)), k))
    return Grid(volume, level, factors(level))


def detect_tissue(volume: Volume, parameters: Detect, context: Context) -> dict[str, Any]:
    """Make or go on with ``parameters.destination``, a labels image (1: tissue); returns the summary.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
        Cancelled: between blocks; what is finished is kept.
    """
    grid = coarse_grid(volume)
    volume.level(parameters.level)
    box = Box.of(grid.shape)
    if parameters.box is not None:
        box = grid.box_from_level(parse_box(parameters.box), parameters.level)
    destination = Path(parameters.destination)
    check_apart(volume.source, destination)
    for text in volume.warnings:
        context.warn(text)
    identity = {
        "input": volume.identity(),
        "parameters": {"detector": NAME, "box": str(box), "grid": [grid.level, *map(str, grid.factor)]},
    }
    found = found_at(destination)
    existing = None if context.overwrite else found
    if existing is not None:
        check_same(destination, existing["signature"], identity)
        if existing.get("finished"):
            context.log(f"{destination} is already complete")
            context.result("labels", destination, NAME)
            return {**existing["summary"], "already_complete": True}
    check_writable(destination)
    rule = Rule(**existing["rule"]) if existing is not None else choose_rule(grid)
    if existing is None:
        context.job.ledger_path.unlink(missing_ok=True)
    with context.replacing(*([destination] if found is not None and existing is None else [])):
        return _make(grid, box, rule, identity, destination, context)


def _make(
    grid: Grid, box: Box, rule: Rule, identity: dict[str, Any], destination: Path, context: Context
) -> dict[str, Any]:
    began = time.monotonic()
    z, y, x = (min(c, n) for c, n in zip(CORE, grid.shape, strict=True))
    halo = (WINDOW, WINDOW, WINDOW)
    lattice = Lattice((z + 2 * WINDOW, y + 2 * WINDOW, x + 2 * WINDOW), halo)
    factors = pyramid_factors(box.shape, grid.scale)
    spec = ImageSpec(
        shape=box.shape,
        dtype=np.dtype(np.uint8),
        scale=grid.scale,
        translation=_origin(grid, box),
        unit=grid.volume.unit,
        chunks=chunk_of((z, y, x)) if box == Box.of(grid.shape) else box.shape,
        factors=factors,
        name=NAME,
        is_labels=True,
        attributes={
            "connectoscope": {
                "finished": False,
                "request": context.provenance,
                "signature": identity,
                "rule": vars(rule),
            }
        },
    )
    stores = make_image(destination, spec, context.scratch)
    context.result("labels", destination, NAME)
    everywhere = rule.depth < DEPTH
    if everywhere:
        context.warn(
            "no border between tissue and background was found in brightness or texture: everything is marked as tissue"
        )
    else:
        context.log(f"tissue is told by its {rule.feature}")

    def read(block: Block) -> tuple[NDArray[np.float32], int]:
        return finite(grid.read(block.read))

    def compute(block: Block, data: tuple[NDArray[np.float32], int]) -> Output:
        array, bad = data
        mask = np.ones(lattice.core, np.uint8)
        if not everywhere:
            mask = (feature_of(array, rule.feature, rule.low, rule.unit) >= rule.threshold).astype(np.uint8)
        kept = np.ascontiguousarray(mask[block.keep.slices])
        facts = {"not_finite": bad} if bad else {}
        return Output(kept, {"tissue": int(kept.sum()), **facts})

    def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
        return stores[0][block.write.slices].write(data)

    blocks = lattice.blocks(box)
    pyramid = Pyramid(stores, factors, labels=True)
    with Ledger(context.job.ledger_path) as ledger:
        voxels = Engine(context, ledger, revision=0).run(Phase(NAME, blocks, read, compute, write, pyramid))
        entries = [entry for entry in ledger.entries(f"{NAME}/") if "tissue" in entry]
    if any(entry.get("not_finite") for entry in entries):
        context.warn("voxels that were not numbers or infinite were taken as 0")
    summary = {
        "task": "detect",
        "detector": NAME,
        "blocks": len(blocks),
        "told_by": None if everywhere else rule.feature,
        "share": round(sum(entry["tissue"] for entry in entries) / box.size, 4),
        "voxel_size": list(grid.scale),
        "warnings": context.warnings,
    }
    delete_locks(destination)
    set_attributes(destination, finished=True, summary=summary)
    shutil.rmtree(context.scratch, ignore_errors=True)
    return {**summary, "megavoxels_per_second": round(voxels / 1e6 / max(time.monotonic() - began, 1e-9), 3)}


def _origin(grid: Grid, box: Box) -> tuple[float, float, float]:
    z, y, x = (t + i * s for t, i, s in zip(grid.translation, box.start, grid.scale, strict=True))
    return (z, y, x)
