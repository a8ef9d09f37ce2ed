"""Blocks of a segmentation in another process: everything follows from the job folder, which all workers must see.

Workers behind a scheduler of the user's own outlive the run, and the next one may have the same folder. So each run leaves a
name in it while it lasts: what a worker knows, and may write, is of the run of that name alone.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from connectoscope.blockwise.crew import Done, Work
from connectoscope.blockwise.destination import write_file
from connectoscope.blockwise.engine import Phase, Writing, do_block
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


@contextlib.contextmanager
def makers(job: JobFolder, skip_corrupt: bool) -> Iterator[Work]:
    """What workers do with a block while the context lasts; the plan of ``job`` is fixed and its image is there."""
    run = secrets.token_hex(8)
    write_file(job.run_name_path, run.encode())
    try:
        yield functools.partial(make_block, str(job.path), run, skip_corrupt)
    finally:
        with contextlib.suppress(OSError):  # whatever ended the run is what matters
            job.run_name_path.unlink()


def make_block(folder: str, run: str, skip_corrupt: bool, id: str) -> Done:
    """Read, compute and write one block of the probabilities.

    Args:
        folder: Of the job.
        run: Its name, under which nothing of the run before is met again.
        skip_corrupt: As in the parameters, since it may have been added to a run that goes on.
        id: Of the block.
    """
    phase, blocks = _station(folder, run, skip_corrupt)
    return do_block(phase, blocks[id])


@functools.lru_cache(maxsize=1)
def _station(folder: str, run: str, skip_corrupt: bool) -> tuple[Phase[Any], Mapping[str, Block]]:
    job = JobFolder(folder)
    _check_still(job, run)
    parameters = Segment(**job.request.parameters)
    plan = Plan.read(job.plan_path)
    if plan is None:
        raise UserError(f"there is no {job.plan_path}; do all workers see the same files?")
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

    def write(block: Block, data: NDArray[Any]) -> Writing | None:
        _check_still(job, run)
        return phase.write(block, data)

    return replace(phase, write=write), {block.id: block for block in phase.blocks}


def _check_still(job: JobFolder, run: str) -> None:
    """Raises UserError unless ``run`` goes on."""
    path = job.run_name_path
    try:
        now = path.read_text(encoding="ascii")
    except FileNotFoundError:
        now = ""
    if now != run:
        raise UserError(f"{path} is not of the run that asks for blocks; do all workers see the same files?")
