"""Runs of a study: each a process on one core, its figures kept in a file and not measured again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

log = logging.getLogger("study")


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write the figures of a run: all of them or none."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found) + "\n", encoding="utf-8")
    part.replace(path)


def make(script: str, runs: Iterable[tuple[str, ...]]) -> None:
    """``script --run WORDS`` for each run, one at a time on each core that this process may use."""

    def start(words: tuple[str, ...]) -> None:
        log.info("%s", " ".join(words))
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, script, "--run", *words], check=True, env=env)

    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(ours) as pool:
        list(pool.map(start, runs))
