"""``adapt rank`` with what it reads, in this process: one line of JSON. ``python tests/benchmarks/counted.py SRC JOB``"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from connectoscope.jobs.context import Context
from connectoscope.tasks.adapt.rank import AdaptRank, run
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Box

count: Counter[str] = Counter()


def main(source: str, job: str) -> None:
    read = Volume.read

    def counted(self: Volume, box: Box, level: int = 0) -> Any:
        count["voxels"] += box.size
        return read(self, box, level)

    Volume.read = counted  # type: ignore[method-assign]
    before, started = _read_bytes(), time.perf_counter()
    summary = run(AdaptRank(source=source), Context.local(Path(job)))
    answer = {"seconds": time.perf_counter() - started, "bytes": _read_bytes() - before, **count}
    sys.stdout.write(json.dumps({**answer, "models": len(summary["models"])}) + "\n")


def _read_bytes() -> int:
    """Bytes that this process has read from files so far, of the page cache too (Linux)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))


if __name__ == "__main__":
    main(*sys.argv[1:])
