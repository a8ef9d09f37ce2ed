"""Runs of a study: each a process on one core, its figures kept in a file and not measured again.

The file says what made them; :func:`origin` tells those of other models and recipes than today's."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

log = logging.getLogger("study")

Row = list[str]


def table(rows: list[Row]) -> str:
    """A table of a page in Markdown; the first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def keep(path: Path, found: dict[str, Any]) -> None:
    """Write the figures of a run: all of them or none."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found) + "\n", encoding="utf-8")
    part.replace(path)


def digest(*facts: str) -> str:
    """Short hash of what decides a result."""
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def of_recipe(path: Path) -> str:
    """Hash of what a recipe says, its comments apart."""
    return digest(json.dumps(tomllib.loads(path.read_text(encoding="utf-8"))))


def made(sources: dict[str, str]) -> dict[str, Any]:
    """What a result says of its making: hashes of its models and recipes by name, and the commit of the code."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"made": {**sources, "commit": commit}}


def origin(found: dict[str, dict[str, Any]], sources: dict[str, str]) -> str:
    """One line for a page: which results do not say what made them, which say something else than ``sources``."""
    silent = [name for name, entry in found.items() if "made" not in entry]
    other = [
        name
        for name, entry in found.items()
        if name not in silent and not sources.items() <= entry["made"].items()
    ]
    parts = []
    if silent:
        which = f"all {len(found)} of them" if len(silent) == len(found) else ", ".join(silent)
        parts.append(f"Results that do not record which models, recipes and code made them: {which}.")
    if other:
        parts.append(f"Results made by other models or recipes than today's: {', '.join(other)}.")
    return " ".join(parts) or "All results were made by today's models and recipes."


def make(script: str, runs: Iterable[tuple[str, ...]]) -> None:
    """``script --run WORDS`` for each run, one at a time on each core that this process may use."""

    def start(words: tuple[str, ...]) -> None:
        log.info("%s", " ".join(words))
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, script, "--run", *words], check=True, env=env)

    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(ours) as pool:
        list(pool.map(start, runs))
