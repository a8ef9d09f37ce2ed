"""cellfinder's detection stage on a volume, in a process of its own: points, seconds, peak memory.

``python tests/benchmarks/peer_cellfinder.py SRC OUT.csv [--planes 0:30] [--soma 16]``

The detection stage only: it proposes cells, which cellfinder's classifier then sorts. The classifier's weights are a
download that cannot be had here, so its precision is not that of the whole program. Parameters are cellfinder's
own defaults, with the volume's voxel size. cellfinder keeps two cores free by default; here it may use all.

cellfinder is found in the interpreter that ``CELLFINDER_PYTHON`` names, or in this one; it needs no connectoscope.
To install one: ``python -m venv VENV; VENV/bin/pip install -c constraints.txt torch cellfinder==1.10.1 tensorstore``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MISSING = (
    "cellfinder is not installed: name an interpreter that has it, CELLFINDER_PYTHON=/path/to/venv/bin/python "
    "(pip install cellfinder==1.10.1 tensorstore psutil)"
)


class PeerMissing(Exception):
    """cellfinder cannot be run here; the text says what to do."""


@dataclass(frozen=True)
class PeerRun:
    """``points``: (z, y, x) in voxels. Seconds of the whole process less those of a first run on a small volume, in which
    numba compiles (``compile_seconds``: a user pays them once in each process); of them, detection with reading. Peak
    memory of the process and its workers together, shared pages counted once, seen five times a second; or the largest
    resident memory of the process alone, where that is more."""

    points: list[tuple[float, float, float]]
    seconds: float
    detection_seconds: float
    compile_seconds: float
    peak_memory_mib: float
    version: str


def interpreter() -> str:
    """An interpreter that can import cellfinder.

    Raises:
        PeerMissing: there is none.
    """
    python = os.environ.get("CELLFINDER_PYTHON", sys.executable)
    find = "import sys, importlib.util as u; sys.exit(any(u.find_spec(n) is None for n in ('cellfinder', 'psutil')))"
    try:
        missing = subprocess.run([python, "-c", find], check=False, capture_output=True).returncode
    except OSError:
        missing = 1
    if missing:
        raise PeerMissing(MISSING)
    return python


def detect(
    source: Path,
    voxel_size: tuple[float, float, float],
    *,
    out: Path,
    planes: tuple[int, int] | None = None,
    soma: float = 16.0,
    threads: int = 2,
) -> PeerRun:
    """Run cellfinder's detection on level 0 of ``source`` (OME-Zarr 0.5, or TIFF), voxel size in um.

    Raises:
        PeerMissing: cellfinder cannot be imported.
        subprocess.CalledProcessError: it failed.
    """
    job = {"source": str(source), "voxel_size": voxel_size, "out": str(out), "planes": planes, "soma": soma}
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    # Without the folder of this script in its path: a module beside it must not hide one of cellfinder's.
    command = [interpreter(), "-P", __file__, "--inside", json.dumps(job)]
    started = time.perf_counter()
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **limits}
    )
    seconds = time.perf_counter() - started
    answer = json.loads(done.stdout.splitlines()[-1])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = [(float(r["z"]), float(r["y"]), float(r["x"])) for r in rows]
    return PeerRun(
        points,
        seconds - answer["compile_seconds"],
        answer["seconds"],
        answer["compile_seconds"],
        answer["peak_memory_mib"],
        answer["version"],
    )


def _inside(job: dict) -> None:
    """In cellfinder's interpreter."""
    from importlib.metadata import version

    import psutil

    peak = [0.0]
    over = threading.Event()

    def watch() -> None:
        # cellfinder starts worker processes: what they hold counts. Pages that they share are counted once (PSS).
        me = psutil.Process()
        while not over.wait(0.2):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total / 2**20)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    from cellfinder.core.detect.detect import main

    volume = _open(Path(job["source"]), job["planes"])
    options = {
        "voxel_sizes": job["voxel_size"],
        "soma_diameter": job["soma"],
        "n_free_cpus": 0,
        "torch_device": "cpu",
    }
    started = time.perf_counter()
    main(_lumps(), **options)
    compiled = time.perf_counter()
    cells = main(volume, **options)
    seconds = time.perf_counter() - compiled
    over.set()
    watcher.join()
    first = job["planes"][0] if job["planes"] else 0
    with Path(job["out"]).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["z", "y", "x"])
        writer.writerows(sorted((cell.z + first, cell.y, cell.x) for cell in cells))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    answer = {
        "seconds": seconds,
        "compile_seconds": compiled - started,
        "peak_memory_mib": max(peak[0], own),
        "version": version("cellfinder"),
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _lumps():
    """A small volume with a cell and a cluster that must be split, so that all of cellfinder is compiled."""
    import numpy as np

    z, y, x = np.indices((24, 200, 200))
    volume = np.random.default_rng(0).poisson(100, z.shape)
    for centre, radius in (((12, 50, 50), 8), ((12, 140, 140), 16), ((12, 140, 152), 16)):
        volume[
            (((z - centre[0]) * 5) ** 2 + ((y - centre[1]) * 2) ** 2 + ((x - centre[2]) * 2) ** 2) < radius**2
        ] = 5000
    return volume.astype(np.uint16)


class _Planes:
    """What cellfinder slices, four planes at a time: a stored volume, each chunk of which is decoded once."""

    ndim = 3

    def __init__(self, store, first: int, last: int) -> None:
        self._store, self._first = store, first
        self._depth = store.chunk_layout.read_chunk.shape[0]
        self._slab, self._at = None, -1
        self.shape = (last - first, *store.shape[1:])
        self.dtype = store.dtype.numpy_dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index):
        import numpy as np

        planes = index[0] if isinstance(index, tuple) else index
        return np.stack([self._plane(self._first + z) for z in range(*planes.indices(len(self)))])

    def _plane(self, z: int):
        if z // self._depth != self._at:
            self._at = z // self._depth
            top = self._at * self._depth
            self._slab = self._store[top : min(top + self._depth, self._store.shape[0])].read().result()
        return self._slab[z % self._depth]


def _open(path: Path, planes: list[int] | None):
    if path.is_dir():
        import tensorstore as ts

        store = ts.open({"driver": "zarr3", "kvstore": f"file://{path.absolute()}/0/"}).result()
        return _Planes(store, *(planes or (0, store.shape[0])))
    from tifffile import imread

    return imread(path)[slice(*planes) if planes else slice(None)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if sys.argv[1:2] == ["--inside"]:
        _inside(json.loads(sys.argv[2]))
        return 0
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--planes", help="a:b, half-open (default: all)")
    parser.add_argument(
        "--soma", type=float, default=16.0, help="soma diameter, um (default: cellfinder's 16)"
    )
    parser.add_argument("--voxel-size", type=float, nargs=3, default=(5.0, 2.0, 2.0), metavar=("Z", "Y", "X"))
    asked = parser.parse_args()
    planes = tuple(int(n) for n in asked.planes.split(":")) if asked.planes else None
    try:
        run = detect(asked.source, tuple(asked.voxel_size), out=asked.out, planes=planes, soma=asked.soma)
    except PeerMissing as error:
        sys.stderr.write(f"skipped: {error}\n")
        return 2
    sys.stdout.write(
        f"cellfinder {run.version}: {len(run.points)} points, {run.seconds:.1f} s "
        f"({run.detection_seconds:.1f} s detection; {run.compile_seconds:.1f} s compiling apart), {run.peak_memory_mib:.0f} MiB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
