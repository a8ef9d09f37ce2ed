"""Versions and device, found without importing torch: About and *Copy diagnostics* answer at once."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def device_found() -> str:
    """The device that jobs will use with 'auto', in words. Looks at files only."""
    torch = package_version("torch")
    gpus = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = file.read_text(errors="replace", encoding="utf-8").splitlines()
        gpus += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    if not gpus and shutil.which("nvidia-smi"):
        gpus = ["NVIDIA GPU"]
    if gpus:
        note = " (the installed torch is for the CPU only)" if torch.endswith("+cpu") else ""
        return f"{', '.join(gpus)}{note}"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "Apple GPU (mps)"
    return f"CPU, {os.cpu_count()} cores"


def facts() -> list[tuple[str, str]]:
    """Name and value, as About shows them."""
    packages = ("napari", "PySide6", "torch", "tensorstore", "zarr", "numpy")
    return [
        ("Connectoscope", package_version("connectoscope")),
        ("Python", platform.python_version()),
        *((name, package_version(name)) for name in packages),
        ("System", platform.platform()),
        ("Device", device_found()),
    ]
