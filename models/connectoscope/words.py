"""Durations and sizes for people: the same words in the terminal, in forms and in plans."""

from __future__ import annotations

_SIZES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def duration(seconds: float) -> str:
    """``3.4 s``, ``42 s``, ``1 min 35 s``, ``12 min``, ``2 h 1 min``: no finer than anybody can use."""
    whole = round(seconds)
    if whole < 10:
        return f"{round(seconds, 3):.2g} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def data_size(nbytes: float) -> str:
    """``12 bytes``, ``34.5 MB``: decimal, as file managers and disks say it."""
    for factor, unit in _SIZES:
        if nbytes >= 0.9995 * factor:  # 999.7 MB is 1 GB
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes:.0f} bytes"
