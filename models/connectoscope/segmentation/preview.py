"""The model on a small part, in a warm process: tiles cut to the part, and nothing loaded twice.

The tiles fit the part instead of lying on the run's lattice, so a preview agrees with the run to about 1 of 255
and, with the practical halo, to what the card promises of that; in return nothing outside the part is computed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from connectoscope.blockwise.plan import Lattice
from connectoscope.networks.precision import best_precision
from connectoscope.networks.predictor import TILE_VOXELS, choose_tile
from connectoscope.segmentation.probabilities import ProbabilityMaker, TilePredictor
from connectoscope.segmentation.setup import Setup, device_of, set_up
from connectoscope.volumes.geometry import Index3
from connectoscope.volumes.ome_zarr_write import create_image

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.preview import Preview
    from connectoscope.volumes import Volume
    from connectoscope.zoo import Bundle

ROUND = 32  # cores are rounded up to this, so that moving a little meets a predictor that is ready


def preview(volume: Volume, bundle: Bundle, parameters: Preview, context: Context) -> dict[str, Any]:
    """Probabilities of ``parameters.box`` into ``preview.ome.zarr`` in the job folder; the summary.

    Raises:
        UserError: voxel size unknown or unsuitable, or the box is outside.
    """
    setup = set_up(volume, bundle, box=parameters.box, level=parameters.level, exact=False)
    setup = replace(setup, lattice=_lattice_for(setup))
    for text in setup.warnings():
        context.warn(text)
    device = device_of(bundle, context)
    predictor = _predictor(str(bundle.path), bundle.hash, setup.lattice.tile, device, context.threads)
    maker = ProbabilityMaker(setup.grid, setup.lattice, predictor, _intensity(setup))
    path = context.folder / "preview.ome.zarr"
    image = setup.image(np.dtype(np.uint8), channels=predictor.outputs, name="preview")
    store = create_image(path, image, overwrite=True)[0]
    z, y, x = (i // s * s for i, s in zip(setup.box.start, setup.lattice.stride, strict=True))
    blocks = setup.lattice.blocks(setup.box, anchor=(z, y, x))
    for done, block in enumerate(blocks):
        context.check_cancelled()
        context.progress(done, len(blocks), "preview")
        data = maker.compute(block, maker.read(block)).data
        store[(slice(None), *block.write.slices)].write(data).result()
    thresholds = {output.name: output.threshold for output in bundle.card.outputs}
    context.result(
        "image", path, "preview", channels=list(predictor.outputs), thresholds=thresholds, box=str(setup.box)
    )
    return {"task": "preview", "blocks": len(blocks), "box": str(setup.box)}


def _lattice_for(setup: Setup) -> Lattice:
    """A tile that holds the part whole, unless that is too large."""
    halo, stride = setup.lattice.halo, setup.lattice.stride
    z, y, x = (_core(setup.box.shape[a], setup.box.start[a], stride[a]) + 2 * halo[a] for a in range(3))
    tile: Index3 = (z, y, x)
    if math.prod(tile) > TILE_VOXELS:
        tile = choose_tile(setup.box.shape, halo, stride)
    return Lattice(tile, halo, stride)


def _core(length: int, start: int, stride: int) -> int:
    step = stride * max(ROUND // stride, 1) if length > ROUND else stride
    return -(-(length + start % stride) // step) * step


@lru_cache(maxsize=2)
def _predictor(path: str, hash: str, tile: Index3, device: str, threads: int) -> TilePredictor:
    """``hash`` is only the cache's: a bundle that was made anew is loaded anew."""
    from connectoscope.zoo.bundle import read_bundle

    return read_bundle(Path(path)).predictor(
        tile=tile, device=device, precision=best_precision(device), threads=threads
    )


_intensities: dict[tuple[Any, ...], tuple[float, float]] = {}


def _intensity(setup: Setup) -> tuple[float, float]:
    """Of the whole grid; remembered as long as the source's metadata and stamp stay the same."""
    volume, wanted = setup.volume, setup.bundle.card.inputs.normalisation
    key = (
        volume.source, volume.metadata_hash, volume.stamp, volume.channel, volume.time,
        setup.grid.level, setup.grid.factor, wanted.model_dump_json(),
    )  # fmt: skip
    if key not in _intensities:
        _intensities[key] = setup.intensity()
    return _intensities[key]
