"""Where peers are installed, apart from what the program itself needs: build/peers, made when first asked for.

``python tests/benchmarks/peers.py`` installs all of them, so that benchmarks need no network afterwards.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent.parent / "build" / "peers"
MONAI = "monai==1.6.1"
NGFF_ZARR = ("ngff-zarr==0.50.0", "tifffile", "imagecodecs")


def monai_folder() -> Path:
    """A folder for PYTHONPATH with MONAI, which uses the torch of this interpreter."""
    folder = FOLDER / "monai"
    if not (folder / "monai").is_dir():
        _run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), MONAI)
    return folder


def ngff_zarr_python() -> Path:
    """The interpreter of an environment of its own, with ngff-zarr."""
    folder = FOLDER / "ngff-zarr"
    python = folder / "bin" / "python"
    if not (folder / "bin" / "ngff-zarr").exists():
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", *NGFF_ZARR)
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.stdout.write(f"{monai_folder()}\n{ngff_zarr_python()}\n")
