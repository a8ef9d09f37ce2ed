"""Describe a volume: levels, axes, voxel size, chunks, statistics (:mod:`connectoscope.volumes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectoscope.tasks.base import Parameters, Task, parameter

if TYPE_CHECKING:
    import numpy as np

    from connectoscope.jobs.context import Context
    from connectoscope.volumes import Volume

_WHOLE = 16 * 2**20  # up to so many voxels statistics are of all of them
_SIDE = 64  # else of 64 boxes of this side on an even grid


class Info(Parameters):
    """What a volume is."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    voxel_size: str | None = parameter(
        None,
        role="voxel_size",
        help="Voxel size z,y,x with unit, for example 40,4,4nm, where the file has none.",
    )
    channel: str | None = parameter(None, help="Channel by name or number, where there are several.")
    time: int | None = parameter(None, ge=0, help="Time point, where there are several.")


def run(parameters: Info, context: Context) -> dict[str, Any]:
    from connectoscope.volumes import open_volume
    from connectoscope.volumes.geometry import Box

    volume = open_volume(
        parameters.source, channel=parameters.channel, time=parameters.time, voxel_size=parameters.voxel_size
    ).skipping_corrupt()
    for warning in volume.warnings:
        context.warn(warning)
    statistics = _statistics(volume)
    if corrupt := [str(chunk) for chunk in volume.skipped_in(Box.of(volume.shape))]:
        some = "; ".join(corrupt[:3]) + (" and more" if len(corrupt) > 3 else "")
        context.warn(f"corrupt chunks are left out of the statistics, {len(corrupt)} of those read: {some}")
    return {
        "task": "info",
        "source": volume.source,
        "name": volume.name,
        "format": volume.format,
        "axes": volume.axes,
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "unit": volume.unit,
        "voxel_size": None if volume.unit is None else list(volume.levels[0].scale),
        "translation": list(volume.levels[0].translation),
        "levels": [
            {
                "shape": list(level.shape),
                "scale": list(level.scale),
                "translation": list(level.translation),
                "chunks": list(level.chunks),
            }
            for level in volume.levels
        ],
        "channels": list(volume.channels),
        "channel": volume.channel,
        "times": volume.times,
        "megabytes": round(_bytes(volume) / 1e6, 3),
        "statistics": statistics,
    }


def _bytes(volume: Volume) -> int:
    """Of all channels and times at the finest level, uncompressed."""
    import math

    return math.prod(volume.shape) * volume.dtype.itemsize * volume.times * max(len(volume.channels), 1)


def _statistics(volume: Volume) -> dict[str, Any]:
    """Of the finest level: of all voxels where there are few, else of an even sample."""
    import numpy as np

    values = _sample(volume)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    facts = {
        "voxels": int(values.size),
        "of_all": bool(values.size == np.prod(volume.shape)),
        "not_finite": int(values.size - finite.size),
    }
    if not finite.size:
        return facts
    with np.errstate(over="ignore", invalid="ignore"):  # of the largest numbers that there are
        low, middle, high = (float(p) for p in np.percentile(finite, (1, 50, 99)))
        mean = round(float(finite.mean(dtype=np.float64)), 4)
    return facts | {
        "minimum": finite.min().item(),
        "maximum": finite.max().item(),
        "mean": mean,
        "percentile_1": low,
        "median": middle,
        "percentile_99": high,
    }


def _sample(volume: Volume) -> np.ndarray[Any, Any]:
    import math

    import numpy as np

    from connectoscope.volumes.geometry import Box

    if math.prod(volume.shape) <= _WHOLE:
        return volume.read_sound(Box.of(volume.shape))
    parts = []
    for index in np.ndindex(4, 4, 4):
        centre = [int((i + 0.5) * n / 4) for i, n in zip(index, volume.shape, strict=True)]
        start = [
            min(max(c - _SIDE // 2, 0), max(n - _SIDE, 0)) for c, n in zip(centre, volume.shape, strict=True)
        ]
        stop = [min(a + _SIDE, n) for a, n in zip(start, volume.shape, strict=True)]
        parts.append(volume.read_sound(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))))
    return np.concatenate(parts)


def render(summary: dict[str, Any]) -> str:
    """The summary as a short text for people."""
    from connectoscope.volumes.geometry import sizes_text, unit_symbol
    from connectoscope.words import data_size

    unit = unit_symbol(summary["unit"]) if summary["unit"] else None
    known = f"{sizes_text(summary['voxel_size'])} {unit}" if unit else "unknown (give it with --voxel-size)"
    lines = [
        f"{summary['name']}: {summary['format']}, axes {summary['axes']}",
        f"  shape       {sizes_text(summary['shape'])} {summary['dtype']} (z, y, x), {data_size(1e6 * summary['megabytes'])}",
        f"  voxel size  {known}",
    ]
    if len(summary["channels"]) > 1:
        lines.append(f"  channels    {', '.join(summary['channels'])}")
    if summary["times"] > 1:
        lines.append(f"  times       {summary['times']}")
    if unit and any(summary["translation"]):
        lines.append(f"  begins at   {', '.join(f'{t:g}' for t in summary['translation'])} {unit}")
    for k, level in enumerate(summary["levels"]):
        size = sizes_text(level["scale"]) + (f" {unit}" if unit else "")
        lines.append(
            f"  level {k}     {sizes_text(level['shape'])}, voxel {size}, chunks {sizes_text(level['chunks'])}"
        )
    facts = summary["statistics"]
    if "mean" in facts:
        of = "all voxels" if facts["of_all"] else f"a sample of {facts['voxels']} voxels"
        low, high, mean, first, last = (
            "unknown" if facts[name] is None else f"{facts[name]:g}"  # JSON has no infinity
            for name in ("minimum", "maximum", "mean", "percentile_1", "percentile_99")
        )
        lines.append(f"  values      {low} to {high}, mean {mean}, 1 % and 99 % {first} and {last} ({of})")
    if facts["not_finite"]:
        lines.append(f"  not finite  {facts['not_finite']} voxels")
    return "\n".join(lines)


TASK = Task(
    name="info",
    summary="Describe a volume: levels, axes, voxel size, chunks, statistics.",
    parameters=Info,
    run=run,
    in_process=True,
    render=render,
)
