"""Bit flips and truncation of every format: a clear error or an array, never a traceback, hang or runaway memory.

``CONNECTOSCOPE_FUZZ=20`` makes so many damaged copies of each kind of each format (default 1), each opened in a process
of its own; few are opened in one process, one after the other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from format_files import FORMATS, Given

COPIES = int(os.environ.get("CONNECTOSCOPE_FUZZ", "1"))
SECONDS, BYTES = 20, 2 * 2**30
HEADER = 400  # where flips hurt most
OPENER = Path(__file__).with_name("open_many.py")


def damaged(form: str, folder: Path) -> Iterator[str]:
    """Paths of damaged copies of a volume: bits flipped in its metadata or voxels, or a file cut short."""
    random = np.random.default_rng(zlib.crc32(form.encode()))
    pixels = random.integers(0, 255, (6, 20, 24)).astype(FORMATS[form].dtypes.split()[0])
    for kind in ("flip", "header", "cut"):
        for copy in range(COPIES):
            place = folder / f"{kind}{copy}"
            place.mkdir()
            source = FORMATS[form].write(place, Given(pixels))
            files = sorted(p for p in place.rglob("*") if p.is_file() and p.stat().st_size)
            told = [
                p
                for p in files
                if p.name in ("zarr.json", ".zattrs", ".zarray", "attributes.json", "info", "a.xml")
            ]
            file = (
                (told or files)[random.integers(len(told or files))]
                if kind == "header"
                else files[random.integers(len(files))]
            )
            data = bytearray(file.read_bytes())
            if kind == "cut":
                del data[random.integers(len(data)) :]
            else:
                end = min(HEADER, len(data)) if kind == "header" else len(data)
                for _ in range(random.integers(1, 9)):
                    data[random.integers(end)] ^= 1 << int(random.integers(8))
            file.write_bytes(data)
            yield source


def opened(paths: list[str]) -> list[dict[str, object]]:
    """What one process says of each path."""
    try:
        done = subprocess.run(
            [sys.executable, str(OPENER), str(BYTES)],
            input="\n".join(paths) + "\n",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return [{"path": p, "bug": "hangs"} for p in paths]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if len(answers) < len(paths):
        answers.append(
            {"path": paths[len(answers)], "bug": f"process ended ({done.returncode}): {done.stderr[-1500:]}"}
        )
    return answers


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_give_a_clear_error_or_an_array(form: str, tmp_path: Path) -> None:
    paths = list(damaged(form, tmp_path))
    batches = [[p] for p in paths] if COPIES > 1 else [paths]
    answers = [answer for batch in batches for answer in opened(batch)]
    bugs = [a for a in answers if "bug" in a or a.get("read") is False]
    if keep := os.environ.get("CONNECTOSCOPE_FUZZ_KEEP"):
        for bug in bugs:
            shutil.copytree(
                Path(str(bug["path"])).parent, Path(keep) / form.replace(" ", "_"), dirs_exist_ok=True
            )
    assert not bugs, json.dumps(bugs, indent=1)
    assert len(answers) == len(paths)
    for answer in answers:
        assert "\n" not in str(answer.get("error", ""))
