"""From an EM volume to an X-ray volume on disk (:mod:`connectoscope.tasks.simulate_xray`).

The wave model goes through the volume in slabs of planes, since a plane across the rotation axis needs only those near
it: each slab is simulated with a margin of 1.5 µm beyond both ends. The noise belongs to the planes, so slabs agree. A
finished slab waits in the job's scratch; the destination is made when the last one is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from connectoscope.blockwise.destination import (
    check_apart,
    check_same,
    check_writable,
    delete_locks,
    found_at,
    make_image,
)
from connectoscope.blockwise.grid import Grid
from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, sample_boxes
from connectoscope.paths import expanded
from connectoscope.volumes import ImageSpec, open_volume, pyramid_factors, set_attributes
from connectoscope.volumes.conversion import fill_pyramid
from connectoscope.volumes.geometry import NANOMETRES, Box, Index3, parse_box, parse_length, sizes_text
from connectoscope.xray2em import forward, surrogate
from connectoscope.xray2em.optics import Optics
from connectoscope.xray2em.spectra import resolution, shells
from connectoscope.xray2em.tomography import angle_count

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.simulate_xray import SimulateXray
    from connectoscope.volumes import Volume

Real = NDArray[np.float32]

SLAB = 64  # planes simulated at once; the depth of a storage unit
WIDEST = 512  # voxels of a slice of the wave model
MOST = 128 * 2**20  # voxels of the surrogate, which takes the volume as a whole
LEAST = 8  # voxels per axis
ANISOTROPIC = 1.1  # ratio of voxel sizes
STAIN = (0.5, 99.5)  # percentiles of the EM that become stain density 1 and 0
SHOWN = (0.1, 99.9)  # percentiles of the result that become 255 and 0


@dataclass(frozen=True)
class Source:
    """The EM on the X-ray grid, as stain density."""

    grid: Grid
    box: Box
    voxel_nm: float
    low: float
    high: float
    mean: float

    def density(self, box: Box) -> Real:
        """Stain density of ``box`` (grid voxels), mirrored where the volume ends."""
        em = self.grid.read(box)
        if not np.isfinite(em).all():
            raise UserError(
                f"{self.grid.volume.name} holds voxels that are not numbers or infinite; replace them, for example "
                "by 0, and try again"
            )
        return forward.stain_density(em, self.low, self.high)


def simulate_xray(parameters: SimulateXray, context: Context) -> dict[str, Any]:
    """Make ``parameters.destination``; returns the summary.

    Raises:
        UserError: unusable source, sizes that are not possible, or a destination that is something else.
        Cancelled: between angles; finished slabs are kept in the job folder.
    """
    destination = expanded(parameters.destination).absolute()
    volume = open_volume(
        parameters.source,
        channel=parameters.channel,
        time=parameters.time,
        voxel_size=parameters.source_voxel_size,
    )
    check_apart(volume.source, destination)
    grid, box, voxel_nm = _grid(volume, parameters)
    optics = Optics(counts=parameters.counts, rings=parameters.rings, delta_beta=parameters.delta_beta)
    like = _surrogate(parameters, voxel_nm, box, context)
    if parameters.method == "wave":
        optics.distances_nm(voxel_nm)
    for warning in volume.warnings:
        context.warn(warning)

    request = parameters.model_dump(mode="json", exclude={"destination"})
    signature = {"task": "simulate-xray", "input": volume.identity(), "parameters": request}
    found = found_at(destination)
    if found is not None and not context.overwrite:
        check_same(destination, found["signature"], signature)
        if found.get("finished"):
            context.log(f"{destination} is already there, made from the same source: nothing to do")
            context.result("image", destination, destination.name)
            return {**found["summary"], "destination": str(destination)}
    check_writable(destination)

    low, high = intensity_range(grid.read, grid.shape, *STAIN)
    samples = [forward.stain_density(grid.read(part), low, high).mean() for part in sample_boxes(grid.shape)]
    source = Source(grid, box, voxel_nm, low, high, float(np.mean(samples)))
    digest = hashlib.sha256(json.dumps(signature, sort_keys=True).encode()).hexdigest()
    slabs = context.scratch / digest[:16]
    slabs.mkdir(parents=True, exist_ok=True)
    with fft.set_workers(context.threads):
        if parameters.method == "wave":
            measured = _wave(source, optics, parameters.seed, slabs, context)
        else:
            measured = _cheap(source, like, parameters.seed, slabs)
    summary = {
        "task": "simulate-xray",
        "method": parameters.method,
        "shape": list(box.shape),
        "voxel_size_nm": round(voxel_nm, 4),
        **measured,
    }
    model = asdict(optics) if parameters.method == "wave" else asdict(like)
    marks = {
        "signature": signature,
        "request": {**context.provenance, "parameters": request},
        "model": model,
        "summary": summary,
    }
    with context.replacing(*([destination] if found is not None and context.overwrite else [])):
        _write(destination, source, slabs, marks, context)
    return {**summary, "destination": str(destination)}


def _grid(volume: Volume, parameters: SimulateXray) -> tuple[Grid, Box, float]:
    """The X-ray grid over the EM, the part of it that is asked for, and its voxel size in nm."""
    wanted = _length(parameters.voxel_size)
    level = parameters.level
    volume.level(level)
    if volume.unit is None:
        raise UserError(
            f"{volume.source or volume.name} does not state its voxel size; give it, for example "
            "--source-voxel-size 8nm"
        )
    sizes = volume.voxel_size_nm(level)
    shown = sizes_text(sizes)
    if max(sizes) > ANISOTROPIC * min(sizes):
        raise UserError(
            f"{volume.name} has voxels of {shown} nm: X-ray volumes can be simulated from isotropic EM only, such as "
            "FIB-SEM"
        )
    if wanted < 0.99 * max(sizes):
        raise UserError(
            f"--voxel-size {parameters.voxel_size} is finer than the voxels of {volume.name}, {shown} nm"
        )
    factor = Fraction(wanted / sizes[0]).limit_denominator(16)
    grid = Grid(volume, level, (factor, factor, factor))
    box = Box.of(grid.shape)
    if parameters.box is not None:
        box = grid.box_from_level(parse_box(parameters.box), level)
    if min(box.shape) < LEAST:
        raise UserError(
            f"at {wanted:g} nm only {' × '.join(map(str, box.shape))} voxels would remain; at least {LEAST} are needed "
            "along each axis: choose a finer --voxel-size or a larger part"
        )
    if parameters.method == "wave" and max(box.shape[1:]) > WIDEST:
        raise UserError(
            f"slices of {box.shape[1]} × {box.shape[2]} X-ray voxels are too wide for the wave model, which takes "
            f"{WIDEST}: give a --box, a coarser --voxel-size or --method surrogate"
        )
    if parameters.method == "surrogate" and box.size > MOST:
        raise UserError(
            f"{box.size / 1e6:.0f} million X-ray voxels are too many for one image of the surrogate, which takes "
            f"{MOST / 1e6:.0f}: give a --box or a coarser --voxel-size"
        )
    return grid, box, sizes[0] * float(factor)


def _surrogate(parameters: SimulateXray, voxel_nm: float, box: Box, context: Context) -> surrogate.Surrogate:
    like = surrogate.at(voxel_nm, counts=parameters.counts, rings=parameters.rings)
    if parameters.resolution is None:
        return like
    blur = _length(parameters.resolution)
    if not voxel_nm <= blur <= min(box.shape) * voxel_nm / 2:
        raise UserError(
            f"--resolution {parameters.resolution} is not possible: at least a voxel ({voxel_nm:g} nm) and at most "
            f"half of the smallest extent ({min(box.shape) * voxel_nm / 2:g} nm)"
        )
    if parameters.method == "wave":
        context.warn("--resolution is for the surrogate; the wave model's follows from its optics")
    return replace(like, resolution_nm=blur)


def _length(text: str) -> float:
    """One length in nm."""
    length, unit = parse_length(text)
    return length * NANOMETRES[unit]


def _wave(source: Source, optics: Optics, seed: int, slabs: Path, context: Context) -> dict[str, Any]:
    box, halves, truths = source.box, [], []
    beyond, width = forward.simulated_extent((min(SLAB, box.shape[0]), *box.shape[1:]), source.voxel_nm)
    total, slab_count = angle_count(width), math.ceil(box.shape[0] / SLAB)
    context.log(
        f"{total} angles of slices of {width} × {width} voxels, {slab_count} slab(s), distances "
        + ", ".join(f"{z / 1e6:.2f}" for z in optics.distances_nm(source.voxel_nm))
        + " mm"
    )
    before = [(width - n) // 2 for n in box.shape[1:]]
    for k, part in enumerate(_slabs(box)):
        path = slabs / f"{k}.npz"
        if not path.exists():
            depth = part.shape[0]
            start = (part.start[0] - beyond, part.start[1] - before[0], part.start[2] - before[1])
            read = Box(start, (part.stop[0] + beyond, start[1] + width, start[2] + width))
            density = source.density(read)
            two = forward.scan(
                density,
                [z + 2**20 for z in range(read.start[0], read.stop[0])],  # margins may begin below 0
                slice(beyond, beyond + depth),
                optics,
                source.voxel_nm,
                seed=seed,
                mean=source.mean,
                progress=_progress(context, k * total, slab_count * total),
            )
            inner = (
                slice(None),
                *(slice(b, b + n) for b, n in zip(before, box.shape[1:], strict=True)),
            )
            two, known = two[:, *inner], density[beyond : beyond + depth][inner]
            image = two.mean(0)
            split, against = shells(two[0], two[1]), shells(known, image)
            _save(
                path,
                image=image,
                halves=split.correlation,
                known=against.correlation,
                frequency=split.frequency,
            )
        with np.load(path) as stored:
            halves.append(stored["halves"])
            truths.append(stored["known"])
            frequency = stored["frequency"]

    def nm(curves: list[NDArray[np.float64]], threshold: float) -> float:
        found = resolution(np.mean(curves, axis=0), frequency, threshold)
        return round((found or 2.0) * source.voxel_nm, 1)

    return {"angles": total, "resolution_nm": nm(halves, 0.143), "resolution_known_nm": nm(truths, 0.5)}


def _cheap(source: Source, like: surrogate.Surrogate, seed: int, slabs: Path) -> dict[str, Any]:
    image = surrogate.simulate(source.density(source.box), source.voxel_nm, like, seed)
    for k, part in enumerate(_slabs(source.box)):
        z = part.start[0] - source.box.start[0]
        _save(slabs / f"{k}.npz", image=image[z : z + part.shape[0]])
    return {"blur_nm": round(like.resolution_nm, 1)}


def _progress(context: Context, before: int, total: int) -> Callable[[int, int], None]:
    def tell(done: int, of: int) -> None:
        context.check_cancelled()
        context.progress(before + done, total, "scan")

    return tell


def _slabs(box: Box) -> Iterator[Box]:
    for z in range(box.start[0], box.stop[0], SLAB):
        yield Box((z, *box.start[1:]), (min(z + SLAB, box.stop[0]), *box.stop[1:]))


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    part.replace(path)


def _write(destination: Path, source: Source, slabs: Path, marks: dict[str, Any], context: Context) -> None:
    """The slabs as 8 bit, dense stain dark, with a pyramid."""

    def slab(k: int) -> Real:
        with np.load(slabs / f"{k}.npz") as stored:
            return np.asarray(stored["image"])

    count = math.ceil(source.box.shape[0] / SLAB)
    ranges = np.mean([np.percentile(slab(k), SHOWN) for k in range(count)], axis=0)
    low, high = (np.float32(v) for v in ranges)

    def read(lead: tuple[int, ...], box: Box) -> NDArray[np.uint8]:
        image = slab(box.start[0] // SLAB)[:, box.slices[1], box.slices[2]]
        grey = np.clip(np.rint((high - image) * (255 / (high - low))), 0, 255)
        return np.asarray(grey, dtype=np.uint8)

    grid = source.grid
    z, y, x = (t + s * i for t, s, i in zip(grid.translation, grid.scale, source.box.start, strict=True))
    chunks: Index3 = (SLAB, 128, 128)
    spec = ImageSpec(
        shape=source.box.shape,
        dtype=np.dtype(np.uint8),
        scale=grid.scale,
        translation=(z, y, x),
        unit=grid.volume.unit,
        chunks=chunks,
        factors=pyramid_factors(source.box.shape, grid.scale),
        name=f"{grid.volume.name} as X-ray",
        attributes={"connectoscope": {"finished": False, **marks}},
    )
    stores = make_image(destination, spec, context.scratch)
    fill_pyramid(
        destination,
        stores,
        spec,
        read,
        source_chunks=(SLAB, WIDEST, WIDEST),
        progress=lambda done, total: context.progress(done, total, "write"),
    )
    delete_locks(destination)
    set_attributes(destination, finished=True)
    context.result("image", destination, spec.name)
    shutil.rmtree(slabs, ignore_errors=True)
