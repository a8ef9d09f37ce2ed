"""Convert any readable volume to another format, with a pyramid (:mod:`connectoscope.volumes.formats`)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import model_validator

from connectoscope.errors import Cancelled, Stopped, UserError
from connectoscope.paths import expanded, part_of
from connectoscope.tasks.base import MenuEntry, Parameters, Task, checked_by, parameter, skip_corrupt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connectoscope.jobs.context import Context
    from connectoscope.volumes import ImageSpec, Volume
    from connectoscope.volumes.conversion import Progress, Read
    from connectoscope.volumes.formats import Chunked, Format, WriteFile
    from connectoscope.volumes.geometry import Box, Index3
    from connectoscope.volumes.volume import Level

CHUNKS = (64, 128, 128)
SHARDS = (64, 512, 512)


def _format_of(text: str) -> Format:
    from connectoscope.volumes.formats import format_of

    return format_of(expanded(text))


class Convert(Parameters):
    """A volume as OME-Zarr, or another format: chunked, compressed, with a pyramid where the format has one."""

    source: str = parameter(role="source", argument=True, help="Volume: file, folder, URL or sample:NAME.")
    destination: Annotated[str, checked_by(_format_of)] = parameter(
        role="destination",
        argument=True,
        help="Volume to write; its ending tells the format: NAME.ome.zarr, .n5, .precomputed, .ome.tif or .h5.",
    )
    box: str | None = parameter(
        None,
        role="box",
        help="Only this part, in voxels of --level: z0:z1,y0:y1,x0:x1 (z1, y1, x1 not included).",
    )
    level: int = parameter(
        0, ge=0, help="Resolution level that becomes the finest (0 is the source's finest)."
    )
    voxel_size: str | None = parameter(
        None,
        role="voxel_size",
        help="Voxel size z,y,x with unit, for example 40,4,4nm, where the file has none.",
    )
    channel: str | None = parameter(None, help="Only this channel, by name or number. Default: all.")
    time: int | None = parameter(None, ge=0, help="Only this time point. Default: all.")
    labels: bool = parameter(
        False, help="The voxels are labels: the pyramid keeps the most frequent one instead of the mean."
    )
    version: Literal["0.5", "0.4"] = parameter(
        "0.5", advanced=True, help="OME-Zarr version: 0.5 (zarr 3) or 0.4 (zarr 2) for older programs."
    )
    skip_corrupt: bool = skip_corrupt()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.version != "0.5" and (wanted := _format_of(self.destination)).name != "OME-Zarr":
            name = expanded(self.destination).name
            raise UserError(f"--version is for OME-Zarr, and {name} is {wanted.name}: leave it out")
        return self


def run(parameters: Convert, context: Context) -> dict[str, Any]:
    """Goes on where an interrupted run of the same request stopped.

    Raises:
        UserError: the source cannot be read, or the destination is something else.
    """

    from connectoscope.blockwise.destination import (
        check_apart,
        check_marks,
        check_same,
        check_skipped,
        check_writable,
        found_at,
    )
    from connectoscope.blockwise.ledger import Ledger
    from connectoscope.blockwise.plan import as_begun
    from connectoscope.blockwise.tile import skipped_chunks
    from connectoscope.volumes.conversion import Array, Lead
    from connectoscope.volumes.corrupt import chunk_name, told_of_skipped
    from connectoscope.volumes.formats import Chunked, format_of
    from connectoscope.volumes.framing import frame
    from connectoscope.volumes.marks import set_marks
    from connectoscope.volumes.opening import read_image

    destination = expanded(parameters.destination).absolute()
    wanted = format_of(destination)

    volumes: dict[tuple[int, int], Volume] = {}
    image = read_image(parameters.source)  # once: of many times, not each a file that is held open

    def opened(channel: int | str | None, time: int | None) -> Volume:
        volume = frame(image, channel=channel, time=time, voxel_size=parameters.voxel_size)
        return volume.skipping_corrupt() if parameters.skip_corrupt else volume

    first = opened(parameters.channel, parameters.time)
    if parameters.labels and first.dtype.kind == "f":
        raise UserError(
            f"{first.name} holds {first.dtype} values, not labels: leave out --labels, or give integers"
        )
    check_apart(first.source, destination)
    box = _box(parameters, first)
    spec = _spec(parameters, first, box, wanted)
    wanted.check(spec)
    for warning in first.warnings:
        if not ("channels" in warning and spec.channels) and not ("time points" in warning and spec.times):
            context.warn(warning)
    if not parameters.labels and first.dtype.name in ("uint32", "uint64"):
        context.warn(f"{first.dtype} voxels look like labels; if they are, convert them with --labels")
    if note := wanted.note(spec):
        context.warn(note)

    request = parameters.model_dump(mode="json", exclude={"destination", "skip_corrupt"})
    signature = {"task": "convert", "input": first.identity(), "parameters": request}
    found = found_at(destination)
    old = destination if found is not None and context.overwrite else None
    if found is not None and old is None:
        check_same(destination, found["signature"], as_begun(signature, found["signature"]))
        if found.get("finished"):
            check_skipped(destination, found["summary"], parameters.skip_corrupt)
            context.log(f"{destination} is already there, made from the same source: nothing to do")
            _tell(context, destination, spec)
            return {**found["summary"], "destination": str(destination)}
        if found.get("skip_corrupt") and not context.job.ledger_path.exists():
            raise UserError(
                f"{destination} is unfinished, and its job folder, which listed the damaged chunks, is gone: "
                "use --overwrite to start over"
            )
    else:
        found = None
        check_writable(destination)
        if not isinstance(wanted.write, Chunked) and old is None:
            check_marks(destination)
        context.job.forget_progress()
    context.scratch.mkdir(parents=True, exist_ok=True)
    marked = _marked(spec, signature, context, skip_corrupt=parameters.skip_corrupt)
    if found is not None and parameters.skip_corrupt:
        set_marks(destination, skip_corrupt=True)

    lead_axes = spec.axes[:-3]

    def read(lead: Lead, part: Box) -> Array:
        where = part.shifted(box.start)
        volume = first
        if lead_axes:  # what was not asked for as an axis is what `first` has chosen
            places = dict(zip(lead_axes, lead, strict=True))
            time, channel = places.get("t", first.time or 0), places.get("c", first.channel or 0)
            volume = volumes.get((time, channel)) or opened(channel, time)
            volumes[time, channel] = volume
        voxels = volume.read(where, parameters.level)
        if skipped := volume.skipped_in(where, parameters.level):
            at = "".join(f" of {axis}={i}" for axis, i in zip(lead_axes, lead, strict=True))
            names = [chunk_name(chunk, parameters.level) + at for chunk in skipped]
            if isinstance(wanted.write, Chunked):
                # Before the voxels are written: what is written once is not read again.
                ledger.append(f"{lead} {where}", 0, skipped=names)
            else:  # a single file is always written from its beginning
                damaged.update(names)
        return voxels

    def progress(done: int, total: int) -> None:
        context.check_cancelled()
        context.progress(done, total, "convert")

    chunks = _chunks(first.levels[parameters.level])
    damaged: set[str] = set()
    summary = {
        "task": "convert",
        "format": f"{wanted.name} {spec.version}" if wanted.name == "OME-Zarr" else wanted.name,
        "axes": spec.axes,
        "shape": [*spec.lead_shape, *spec.shape],
        "dtype": first.dtype.name,
        "levels": len(spec.factors),
    }

    def finished() -> dict[str, Any]:
        """The summary, once everything has been read."""
        if names := sorted({*damaged, *skipped_chunks(ledger.entries(""))}):
            context.warn(told_of_skipped(names))
            summary["skipped_chunks"] = names
        return summary

    with Ledger(context.job.ledger_path) as ledger:
        if isinstance(wanted.write, Chunked):
            _fill(destination, marked, wanted.write, read, chunks, progress, context, old, new=found is None)
            set_marks(destination, finished=True, summary=finished())
        else:
            _write_file(destination, marked, wanted.write, read, chunks, progress, context, finished, old)
            _tell(context, destination, spec)
    return {**summary, "destination": str(destination)}


def _fill(
    destination: Path,
    spec: ImageSpec,
    chunked: Chunked,
    read: Read,
    chunks: Index3,
    progress: Progress,
    context: Context,
    old: Path | None,
    *,
    new: bool,
) -> None:
    """Make or go on with a folder, storage unit by storage unit."""
    from connectoscope.blockwise.destination import delete_locks, make_image, take_away
    from connectoscope.volumes.conversion import fill_pyramid
    from connectoscope.volumes.marks import set_marks

    def create(path: Path, spec: ImageSpec) -> None:
        chunked.create(path, spec)
        set_marks(path, **spec.attributes["connectoscope"])

    with context.replacing(*([old] if old is not None else [])):
        try:
            stores = make_image(destination, spec, context.scratch, create, chunked.reopen)
            _tell(context, destination, spec)
            fill_pyramid(
                destination, stores, spec, read,
                source_chunks=chunks, progress=progress, unit_file=chunked.unit_file, scratch=context.scratch,
            )  # fmt: skip
        except UserError:
            if new and os.path.lexists(destination):  # unusable input leaves nothing behind
                with contextlib.suppress(UserError, OSError):  # why it is unusable says more
                    take_away(destination, context.scratch)
            raise
    delete_locks(destination)


def _write_file(
    destination: Path,
    spec: ImageSpec,
    write: WriteFile,
    read: Read,
    chunks: Index3,
    progress: Progress,
    context: Context,
    finished: Callable[[], dict[str, Any]],
    old: Path | None,
) -> None:
    """Write a single file in the job's folder, then move it into place: half of one is never there."""
    from connectoscope.blockwise.destination import stage_file
    from connectoscope.volumes.marks import marks_file, set_marks

    new = context.scratch / f"new{destination.suffix}"
    part = part_of(destination)
    try:
        try:
            write(new, spec, read, source_chunks=chunks, progress=progress)
        except Cancelled:
            raise Cancelled(
                "cancelled; a single file is begun anew when this is resumed (a folder, .ome.zarr say, goes on)"
            ) from None
        marks = {**spec.attributes["connectoscope"], "finished": True, "summary": finished()}
        stage_file(new, part)
        with context.replacing(*([old, marks_file(old)] if old is not None else [])):
            set_marks(destination, **marks)  # first, so that a file of ours is never without
            part.replace(destination)
    except OSError as error:
        if not destination.exists():  # else the marks are the old file's
            marks_file(destination).unlink(missing_ok=True)
        raise Stopped(
            f"{destination} cannot be written ({error.strerror or error}); make room and start it again"
        ) from error
    finally:
        for file in (new, part):
            file.unlink(missing_ok=True)


def _chunks(level: Level) -> Index3:
    """What is decoded at once; bare voxels, whose chunks are none but a hint, can be read section by section."""
    z, y, x = level.chunks
    return (z, y, x) if any(level.array.chunk_layout.read_chunk.shape or ()) else (1, y, x)


def _box(parameters: Convert, volume: Volume) -> Box:
    from connectoscope.volumes.geometry import Box, parse_box

    if parameters.level >= len(volume.levels):
        raise UserError(
            f"{volume.name} has no level {parameters.level}; its levels are 0 to {len(volume.levels) - 1}"
        )
    whole = Box.of(volume.levels[parameters.level].shape)
    if parameters.box is None:
        return whole
    box = parse_box(parameters.box)
    if not whole.contains(box):
        raise UserError(
            f"box {box} is not inside level {parameters.level} of {volume.name}, which is {whole}"
        )
    return box


def _spec(parameters: Convert, volume: Volume, box: Box, wanted: Format) -> ImageSpec:
    from connectoscope.volumes import ImageSpec

    level = volume.levels[parameters.level]
    z, y, x = (t + s * i for t, s, i in zip(level.translation, level.scale, box.start, strict=True))
    return ImageSpec(
        shape=box.shape,
        dtype=volume.dtype,
        scale=level.scale,
        translation=(z, y, x),
        unit=volume.unit,
        chunks=CHUNKS,
        shards=SHARDS if parameters.version == "0.5" else None,
        channels=volume.channels if parameters.channel is None and len(volume.channels) > 1 else (),
        times=volume.times if parameters.time is None and volume.times > 1 else None,
        factors=wanted.factors(box.shape, level.scale),
        name=volume.name,
        is_labels=parameters.labels,
        version=parameters.version,
    )


def _marked(spec: ImageSpec, signature: dict[str, Any], context: Context, *, skip_corrupt: bool) -> ImageSpec:
    from dataclasses import replace

    from connectoscope.volumes.marks import gaps

    asked = {**context.provenance, "parameters": signature["parameters"]}
    marks = {"finished": False, "signature": signature, "request": asked}
    marks |= {"skip_corrupt": True} if skip_corrupt else {}
    marks |= {"gaps": lines} if (lines := gaps(asked["parameters"]["source"])) else {}
    return replace(spec, attributes={"connectoscope": marks})


def _tell(context: Context, destination: Path, spec: ImageSpec) -> None:
    kind = "labels" if spec.is_labels else "image"
    context.result(kind, destination, spec.name, channels=list(spec.channels))


TASK = Task(
    name="convert",
    summary="Convert a volume to OME-Zarr, N5, Neuroglancer precomputed, OME-TIFF or HDF5.",
    parameters=Convert,
    run=run,
    destination="destination",
    menu=(MenuEntry("File", "Convert…"),),
)
