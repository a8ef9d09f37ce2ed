"""Runs the benchmarks and writes docs/benchmarks.md: make bench, or python tests/benchmarks/run.py [NAME ...].

Each file ``bench_*.py`` beside this one has ``measure() -> Section``. Peers run side by side with us, in turn, in the
same run, so that a noisy machine is noisy for both; figures are medians.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from connectoscope.networks.precision import best_precision

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
CACHE = HERE / "results"


def machine() -> str:
    """What the figures were measured on, without its name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "tensorstore", "numpy"))
    cores = f"{os.cpu_count()} cores, {best_precision('cpu')}"
    return f"{model}, {cores}; {platform.system()}, Python {platform.python_version()}, {libraries}"


def commit() -> str:
    """Of the code that is measured."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    sys.path.insert(0, str(HERE))
    CACHE.mkdir(exist_ok=True)
    names = sys.argv[1:] or sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    for name in names:
        section = importlib.import_module(f"bench_{name}").measure()
        (CACHE / f"{name}.json").write_text(
            json.dumps({"machine": machine(), "commit": commit(), **vars(section)}, indent=1) + "\n"
        )
        sys.stdout.write(markdown(json.loads((CACHE / f"{name}.json").read_text())) + "\n")
    sections = [json.loads(path.read_text()) for path in sorted(CACHE.glob("*.json"))]
    text = "\n\n".join(
        [
            "# Benchmarks",
            "Written by `make bench`. Sections were measured on different machines: compare figures within one. Where "
            "the code is older than 0c693b7, or not named, `synapse-vnc` is version 1, with 55,888 multiplications per voxel "
            "instead of 28,760.",
            *map(markdown, sections),
        ]
    )
    (DOCS / "benchmarks.md").write_text(text + "\n")


def markdown(section: dict[str, object]) -> str:
    """One section: title, what and how, a table."""
    rows = section["rows"]
    if not isinstance(rows, list):
        raise TypeError("rows must be a list of lists")
    head, *body = [[str(cell) for cell in row] for row in rows]
    table = [head, ["---"] * len(head), *body]
    lines = ["| " + " | ".join(row) + " |" for row in table]
    made = f"; code of {section['commit']}" if "commit" in section else ""
    return "\n".join(
        [
            f"## {section['title']}",
            "",
            str(section["text"]),
            "",
            f"On {section['machine']}{made}.",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    main()
