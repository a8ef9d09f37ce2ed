"""What a segmentation will need, found out with one block: time, memory, disk."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from connectoscope.blockwise.engine import READ_AHEAD
from connectoscope.jobs.limits import free_memory
from connectoscope.jobs.memory import peak_memory_mb
from connectoscope.networks.precision import best_precision
from connectoscope.segmentation.asked import check
from connectoscope.segmentation.components import local_labels
from connectoscope.segmentation.probabilities import ProbabilityMaker
from connectoscope.segmentation.setup import device_of
from connectoscope.volumes.geometry import sizes_text
from connectoscope.words import data_size, duration

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.segment import Segment
    from connectoscope.volumes import Volume
    from connectoscope.zoo import Bundle

LEVELS = 4 / 3  # all levels of a pyramid, relative to its finest; less where z is not halved
LABEL_BYTES = 4
MEBI = 2**20


def preflight(volume: Volume, bundle: Bundle, parameters: Segment, context: Context) -> dict[str, Any]:
    """Run one block, twice, and write nothing.

    Seconds are those of the second time, reading and computing, times the blocks, and of finding its objects. Disk is what
    the result has uncompressed, which it never exceeds. Memory is the peak so far, and the blocks that are read ahead.

    Returns:
        ``blocks``, ``tile``, ``halo_share``, ``device``, ``seconds``, ``memory_mb``, ``memory_left_mb``,
        ``disk_mb_at_most``, ``disk_left_mb`` (None: unknown), ``warnings``.

    Raises:
        UserError: as the run itself would.
    """
    asked = check(volume, bundle, parameters, context)
    targets, setup = asked.targets, asked.setup
    device = device_of(bundle, context)
    predictor = bundle.predictor(
        tile=setup.lattice.tile,
        exact=parameters.exact,
        device=device,
        precision=best_precision(device),
        threads=context.threads,
    )
    maker = ProbabilityMaker(setup.grid, setup.lattice, predictor, setup.intensity(), None, asked.mask)
    blocks = maker.blocks(setup.box)
    seconds = 0.0
    if blocks:
        block = blocks[len(blocks) // 2]
        maker.compute(block, maker.read(block))  # the first pass has compiling and allocating in it
        context.check_cancelled()
        began = time.perf_counter()
        found = maker.compute(block, maker.read(block)).data
        for target in targets:
            if target.evidence is None:
                local_labels(found[target.channel], target.threshold)
                local_labels(found[target.channel], target.threshold)  # once for parts, once for labels
        seconds = (time.perf_counter() - began) * len(blocks)
    voxels = math.prod(setup.box.shape)
    disk = LEVELS * voxels * (len(bundle.card.outputs) + LABEL_BYTES * len(targets)) / MEBI
    tile = math.prod(setup.lattice.tile) * np.dtype(np.float32).itemsize / MEBI
    memory = (peak_memory_mb() or 0.0) + READ_AHEAD * tile
    disk_left, memory_left = _free_disk(Path(parameters.destination)), free_memory() / MEBI
    if any(target.evidence for target in targets):
        context.warn("the time to make neurons of the affinities is not included")
    if disk_left is not None and disk > disk_left:
        context.warn(
            f"the disk of {parameters.destination} may be too small: up to {_size(disk)} needed, {_size(disk_left)} free; "
            "choose another place, or --box"
        )
    if memory > memory_left + (peak_memory_mb() or 0.0):
        context.warn(
            f"memory may be too small: {_size(memory)} needed, {_size(memory_left)} free; close other programs "
            "(with too little the run goes on with smaller tiles, more slowly)"
        )
    return {
        "task": "preflight",
        "blocks": len(blocks),
        "tile": list(setup.lattice.tile),
        "halo_share": round(1 - math.prod(setup.lattice.core) / math.prod(setup.lattice.tile), 3),
        "device": device,
        "seconds": round(seconds, 4),
        "memory_mb": round(memory),
        "memory_left_mb": round(memory_left),
        "disk_mb_at_most": math.ceil(disk),
        "disk_left_mb": None if disk_left is None else round(disk_left),
        "warnings": context.warnings,
    }


def render(summary: dict[str, Any]) -> str:
    """Lines for people."""
    free = summary["disk_left_mb"]
    lines = [
        (
            "blocks",
            f"{summary['blocks']:,} of {sizes_text(summary['tile'])} voxels on {summary['device']}",
        ),
        ("time", f"about {duration(summary['seconds'])}"),
        ("memory", f"about {_size(summary['memory_mb'])} ({_size(summary['memory_left_mb'])} free)"),
        (
            "disk",
            f"at most {_size(summary['disk_mb_at_most'])}"
            + ("" if free is None else f" ({_size(free)} free)"),
        ),
    ]
    return "\n".join(f"{name:<8}{text}" for name, text in lines)


def _free_disk(destination: Path) -> float | None:
    """MiB that are free where the destination will lie; None where that cannot be found out."""
    try:
        return shutil.disk_usage(destination.parent).free / MEBI
    except OSError:
        return None


def _size(mebi: float) -> str:
    return data_size(mebi * MEBI)
