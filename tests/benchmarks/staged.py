"""``segment --target neurons`` with the seconds of each stage, in this process: one line of JSON.

``python tests/benchmarks/staged.py SRC DST MODEL``
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from connectoscope.blockwise.engine import Engine, Phase
from connectoscope.jobs.context import Context
from connectoscope.segmentation.neurons import maker
from connectoscope.tasks.segment import Segment, run

seconds: Counter[str] = Counter()
lock = threading.Lock()


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose seconds are added up under ``name``."""

    @functools.wraps(function)
    def run_timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            with lock:
                seconds[name] += time.perf_counter() - started

    return run_timed


def main(source: str, destination: str, model: str) -> None:
    run_phase = Engine.run

    def run_named(self: Engine, phase: Phase[Any]) -> int:
        return int(timed(phase.name, run_phase)(self, phase))

    Engine.run = run_named  # type: ignore[method-assign]
    maker.NeuronMaker.objects = timed("agglomeration", maker.NeuronMaker.objects)  # type: ignore[method-assign]
    # What makes neurons go on from cell to cell, beyond what every cell needs anyway.
    for name in ("seams_of", "strengthen", "to_bytes", "from_bytes"):
        setattr(maker, name, timed("stitching", getattr(maker, name)))
    asked = Segment(source=source, destination=destination, model=model, target=("neurons",))
    summary = run(asked, Context.local(Path(destination + ".job")))
    sys.stdout.write(json.dumps({"seconds": seconds, "objects": summary["objects"]}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
