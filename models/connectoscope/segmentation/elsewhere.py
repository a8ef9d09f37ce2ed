"""Blocks of a segmentation in another process: everything follows from the job folder, which all workers must see."""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connectoscope.blockwise.crew import Done
from connectoscope.blockwise.engine import Phase, do_block
from connectoscope.blockwise.mask import read_mask
from connectoscope.blockwise.plan import Block, Plan
from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.networks.precision import best_precision
from connectoscope.segmentation.probabilities import ProbabilityMaker, planned_predictor
from connectoscope.segmentation.setup import set_up
from connectoscope.tasks.base import open_source
from connectoscope.tasks.segment import Segment
from connectoscope.volumes import open_volume
from connectoscope.volumes.ome_zarr_write import open_image_for_writing
from connectoscope.zoo import find_model


def make_block(folder: str, revision: int, skip_corrupt: bool, id: str) -> Done:
    """Read, compute and write one block of the probabilities.

    Args:
        folder: Of the job; its plan is fixed and its image is there.
        revision: Of the plan, since a smaller tile is another network.
        skip_corrupt: As in the parameters, since it may have been added to a run that goes on.
        id: Of the block.
    """
    phase, blocks = _station(folder, revision, skip_corrupt)
    return do_block(phase, blocks[id])


@functools.lru_cache(maxsize=1)
def _station(folder: str, revision: int, skip_corrupt: bool) -> tuple[Phase[Any], Mapping[str, Block]]:
    job = JobFolder(folder)
    parameters = Segment(**job.request.parameters)
    plan = Plan.read(job.plan_path)
    if plan is None or plan.revision != revision:
        raise UserError(f"{job.plan_path} is not the plan of this run; do all workers see the same files?")
    if best_precision(plan.device) != plan.precision == "bfloat16":
        raise UserError(
            f"{socket.gethostname()} only emulates bfloat16, in which this run computes: give it workers with processors like "
            "the one it was begun on, or begin it on one like theirs"
        )
    volume = open_source(parameters, parameters.source, skip_corrupt=skip_corrupt)
    bundle = find_model(parameters.model)
    setup = set_up(volume, bundle, box=parameters.box, level=parameters.level, exact=parameters.exact)
    predictor = planned_predictor(bundle, plan, parameters.exact)
    mask = None if parameters.within is None else read_mask(open_volume(parameters.within), setup.grid)
    maker = ProbabilityMaker(setup.grid, setup.lattice, predictor, plan.intensity, None, mask)
    image = setup.image_of_blocks(Path(parameters.destination), job.scratch)
    phase = maker.phase(setup.box_of_blocks, open_image_for_writing(image)[0], None)
    return phase, {block.id: block for block in phase.blocks}
