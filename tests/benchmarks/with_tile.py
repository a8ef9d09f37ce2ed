"""``segment`` with a tile of a given shape, which the program itself has no option for: one process, one line of JSON.

``python tests/benchmarks/with_tile.py SRC DST MODEL Z,Y,X``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from connectoscope.jobs.context import Context
from connectoscope.jobs.memory import keep_freed_memory, peak_memory_mb
from connectoscope.segmentation import setup
from connectoscope.tasks.segment import Segment, run
from connectoscope.volumes.stores import use_engine_cache


def main(source: str, destination: str, model: str, tile: str) -> None:
    keep_freed_memory()  # as the engine's process does
    use_engine_cache()
    shape = tuple(int(n) for n in tile.split(","))
    setup.choose_tile = lambda *_, **__: shape  # type: ignore[assignment]
    context = Context.local(Path(destination + ".job"))
    summary = run(Segment(source=source, destination=destination, model=model), context)
    answer = {"blocks": summary["blocks"], "objects": summary["objects"], "peak_mb": peak_memory_mb()}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
