"""From an X-ray volume to EM with its uncertainty on disk, block by block (:mod:`connectoscope.tasks.reconstruct`).

::

    volume -> grid that the network sees -> tiles -> root image (em, aleatoric_sd, epistemic_sd), ``scale`` times finer
                                              |  scratch, where a box lies off   ^
                                              +--------- the lattice ------------+

Lattice and blocks are those of the fine grid, with tile, halo and stride ``scale`` times those of the network: what is
read of a block is its box divided by ``scale``, which leaves no rest.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.blockwise.destination import (
    check_apart,
    check_same,
    check_skipped,
    check_writable,
    delete_locks,
    found_at,
    make_image,
)
from connectoscope.blockwise.engine import Engine, Output, Phase
from connectoscope.blockwise.grid import Grid, choose_grid
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Block, Lattice, Plan, Signature, as_begun, blocks_of
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.blockwise.tile import Tile, kept_box, read_tile, skipped_chunks, told_of_tiles
from connectoscope.networks.normalise import normalise, sample_boxes
from connectoscope.networks.predictor import choose_tile, default_tile
from connectoscope.segmentation.probabilities import alignment, predict_core, store_of_blocks
from connectoscope.segmentation.setup import Setup, fix_plan
from connectoscope.volumes.geometry import NANOMETRES, Box, Index3, parse_box, parse_length
from connectoscope.volumes.ome_zarr_write import set_attributes
from connectoscope.volumes.pyramid import pyramid_factors
from connectoscope.xray2em.predict import OUTPUTS, Reconstructor, arguments_of, make_reconstructor
from connectoscope.xray2em.texture import NAMES, check_isotropic, texture

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.reconstruct import Reconstruct
    from connectoscope.volumes import Volume
    from connectoscope.zoo import Bundle

UNKNOWN = (
    2.0  # times the epistemic sd of the card, in the median, from which on a volume is not what was learned
)
BLANK = (0.0, 0.0, 1.0)  # what is written where the X-ray is constant: nothing, and that nothing is known


@dataclass(frozen=True)
class FineSetup(Setup):
    """A setup whose ``grid``, ``box`` and ``lattice`` are those of the result, ``scale`` times finer than what is seen."""

    scale: int = 1

    @property
    def seen(self) -> Grid:
        z, y, x = (f * self.scale for f in self.grid.factor)
        return Grid(self.volume, self.grid.level, (z, y, x))

    @property
    def seen_lattice(self) -> Lattice:
        return Lattice(
            self.coarse(self.lattice.tile), self.coarse(self.lattice.halo), self.coarse(self.lattice.stride)
        )

    def coarse(self, shape: Index3) -> Index3:
        """A shape or place on the fine grid in voxels of what is seen."""
        z, y, x = (n // self.scale for n in shape)
        return (z, y, x)


def set_up_fine(volume: Volume, bundle: Bundle, *, box: str | None, level: int, exact: bool) -> FineSetup:
    """As :func:`connectoscope.segmentation.setup.set_up`, for a model that writes finer than it reads.

    Raises:
        UserError: the model does not reconstruct; voxel size unknown, unsuitable or anisotropic; no such level; or the
            box is outside.
    """
    arguments = arguments_of(bundle)
    check_isotropic(volume)
    seen = choose_grid(volume, bundle.card.inputs.voxel_size)
    volume.level(level)
    s = arguments.scale
    z, y, x = (f / s for f in seen.factor)
    fine = Grid(volume, seen.level, (z, y, x))
    part = Box.of(fine.shape) if box is None else fine.box_from_level(parse_box(box), level)
    halo, stride = bundle.halo(exact), bundle.card.stride
    tile = choose_tile(seen.shape, halo, stride, default_tile(arguments.values_per_voxel))
    lattice = Lattice(_times(tile, s), _times(halo, s), _times(stride, s))
    return FineSetup(volume, bundle, fine, part, lattice, s)


def _times(shape: Index3, scale: int) -> Index3:
    return (scale * shape[0], scale * shape[1], scale * shape[2])


def reconstruct(volume: Volume, bundle: Bundle, parameters: Reconstruct, context: Context) -> dict[str, Any]:
    """Make or go on with ``parameters.destination``; returns the summary.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
        Cancelled: between blocks; what is finished is kept.
    """
    setup = set_up_fine(volume, bundle, box=parameters.box, level=parameters.level, exact=parameters.exact)
    told = [*setup.warnings(), *_outside(bundle, parameters.resolution)]
    identity: Signature = {
        "input": volume.identity(),
        "model": bundle.hash,
        "parameters": {"box": str(setup.box), "exact": parameters.exact, "calibration": _calibration(bundle)},
    }
    destination = Path(parameters.destination)
    check_apart(volume.source, destination)
    found = found_at(destination)
    existing = None if context.overwrite else found
    if existing is not None:
        identity = as_begun(identity, existing["signature"])
    if existing is not None and existing.get("finished"):
        check_same(destination, {k: existing["signature"].get(k) for k in identity}, identity)
        check_skipped(destination, existing["summary"], parameters.skip_corrupt)
        context.log(f"{destination} is already complete")
        _tell(destination, context)
        for text in existing["summary"]["warnings"]:
            context.warn(text)
        return {**existing["summary"], "already_complete": True}
    check_writable(destination)
    if existing is None:
        context.job.forget_progress()
    plan = fix_plan(setup, identity, destination, existing, context)
    for text in [*told, *_unlike(setup, plan)]:
        context.warn(text)
    reconstructor = make_reconstructor(
        bundle,
        tile=setup.coarse(plan.tile),
        halo=setup.coarse(setup.lattice.halo),
        device=plan.device,
        precision=plan.precision,
        threads=plan.threads,
    )
    old = [destination] if found is not None and existing is None else []
    with context.replacing(*old), Ledger(context.job.ledger_path) as ledger:
        return _Run(setup, plan, reconstructor, destination, context, ledger).all()


def _calibration(bundle: Bundle) -> dict[str, Any]:
    """What of the card's calibration decides the bytes and what is said of them."""
    own = bundle.card.calibration or {}
    return {name: own[name] for name in ("scale", "trusted_sd", "epistemic_sd")}


def _outside(bundle: Bundle, resolution: str | None) -> list[str]:
    """A line where the scan's resolution, as far as it is told, is none that the model was trained for."""
    if resolution is None:
        return []
    length, unit = parse_length(resolution)
    own = length * NANOMETRES[unit]
    known = (bundle.card.calibration or {}).get("resolution_nm")  # nobody states that of a real pair
    if known is None or known[0] <= own <= known[1]:
        return []
    low, high = known
    return [
        f"a resolution of {own:g} nm is outside of the {low:g} to {high:g} nm that {bundle.card.name} was trained for: "
        "neither image nor uncertainty has been checked there"
    ]


def _unlike(setup: FineSetup, plan: Plan) -> list[str]:
    """A line where the intensities are not those of an X-ray volume that the model knows."""
    ranges = (setup.bundle.card.calibration or {})["texture"]
    seen = setup.seen

    def known(box: Box) -> NDArray[np.float32]:
        image = normalise(seen.read(box), *plan.intensity)
        for gap in seen.gaps(box):
            image[gap.within(box).slices] = np.nan
        return image

    found = texture(known(box) for box in sample_boxes(seen.shape))
    odd = [
        f"{name} {value:.2f}, known are {ranges[name][0]:.2f} to {ranges[name][1]:.2f}"
        for name, value in zip(NAMES, found, strict=True)
        if name in ranges and not ranges[name][0] <= value <= ranges[name][1]
    ]
    if not odd:
        return []
    return [
        f"{setup.volume.name} does not look like the scans that {setup.bundle.card.name} was trained on "
        f"({'; '.join(odd)}): is it an X-ray volume, with dense stain dark?"
    ]


def _tell(destination: Path, context: Context) -> None:
    context.result("image", destination, "reconstruction", channels=list(OUTPUTS))


@dataclass
class _Run:
    setup: FineSetup
    plan: Plan
    reconstructor: Reconstructor
    destination: Path
    context: Context
    ledger: Ledger

    def all(self) -> dict[str, Any]:
        """Run what is left; the summary."""
        began = time.monotonic()
        setup, context = self.setup, self.context
        context.phases(reconstruction=100.0, **({} if setup.chunks_on_lattice else {"alignment": 5.0}))
        engine = Engine(context, self.ledger, revision=self.plan.revision)
        factors = pyramid_factors(setup.box.shape, setup.grid.scale)
        spec = setup.image(
            np.dtype(np.float16),
            channels=OUTPUTS,
            factors=factors,
            name=f"{setup.volume.name} as EM",
            attributes=self._attributes(),
        )
        stores = make_image(self.destination, spec, context.scratch)
        pyramid = Pyramid(stores, factors, labels=False)
        _tell(self.destination, context)
        store = store_of_blocks(setup, stores[0], OUTPUTS, self.destination, context.scratch)
        phase = self._phase(setup.box_of_blocks, store)
        if setup.chunks_on_lattice:
            voxels = engine.run(replace(phase, pyramid=pyramid))
        else:
            voxels = engine.run(phase)
            blocks = blocks_of(setup.box.shape, setup.lattice.core)
            engine.run(alignment(setup, blocks, store, stores[0], pyramid))
        summary = self._summary()
        delete_locks(self.destination)
        set_attributes(self.destination, finished=True, summary=summary)
        rate = voxels / 1e6 / max(time.monotonic() - began, 1e-9)
        return {**summary, "megavoxels_per_second": round(rate, 3)}

    def _attributes(self) -> dict[str, Any]:
        card = self.setup.bundle.card
        return {
            "connectoscope": {
                "finished": False,
                "request": self.context.provenance,
                "model": {"name": card.name, "version": card.version, "hash": self.setup.bundle.hash},
                "signature": self.plan.signature,
                "grid": self.setup.facts(),
                "calibration": card.calibration,
            }
        }

    def _phase(self, box: Box, store: ts.TensorStore) -> Phase[Tile]:
        """Write ``box`` (fine grid) into ``store`` (c, z, y, x), whose voxel 0 is its start."""

        def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
            return store[(slice(None), *block.write.slices)].write(data)

        blocks = self.setup.lattice.blocks(box)
        return Phase("reconstruction", blocks, self._read, self._compute, write)

    def _read(self, block: Block) -> Tile:
        s = self.setup
        stop = (-(-n // s.scale) for n in block.keep.stop)
        keep = Box(s.coarse(block.keep.start), tuple(stop))  # type: ignore[arg-type]
        return read_tile(s.seen, s.seen_lattice, replace(block, read=self._seen(block.read), keep=keep))

    def _compute(self, block: Block, tile: Tile) -> Output:
        """The kept part of the core, (3, z, y, x) float16, and how much of it is not to be trusted."""
        setup = self.setup
        if tile.constant:
            kept = np.empty((len(OUTPUTS), *block.write.shape), np.float16)
            kept[:] = np.reshape(BLANK, (-1, 1, 1, 1))
        else:
            seen = normalise(tile.intensities, *self.plan.intensity)
            core = predict_core(self.reconstructor, seen, setup.seen_lattice, setup.scale)
            kept = np.ascontiguousarray(core[(slice(None), *block.keep.slices)])
        if tile.skipped:
            self._leave_open(kept, block)
        aleatoric, epistemic = kept[1].astype(np.float32), kept[2].astype(np.float32)
        known = epistemic[np.isfinite(epistemic) & (not tile.constant)]  # where the networks were asked
        trusted = _calibration(setup.bundle)["trusted_sd"]
        facts = {
            "untrusted": int((np.hypot(aleatoric, epistemic) > trusted).sum()),
            "voxels": block.write.size,
            "known": known.size,
            "epistemic": round(float(np.median(known)), 5) if known.size else 0.0,
        }
        return Output(kept, tile.facts | facts)

    def _leave_open(self, kept: NDArray[np.float16], block: Block) -> None:
        """No image in corrupt chunks, and no trust as far around them as the network looks, wherever tiles begin."""
        setup = self.setup
        box = kept_box(setup.lattice, block)
        for gap in setup.seen.gaps(self._seen(block.read)):
            fine = Box(_times(gap.start, setup.scale), _times(gap.stop, setup.scale))
            doubted = fine.grown(setup.lattice.halo).intersection(box)
            kept[(slice(1, None), *doubted.within(box).slices)] = np.inf
            kept[(0, *fine.intersection(box).within(box).slices)] = 0

    def _seen(self, box: Box) -> Box:
        """A box of whole voxels of what is seen, there."""
        return Box(self.setup.coarse(box.start), self.setup.coarse(box.stop))

    def _summary(self) -> dict[str, Any]:
        card = self.setup.bundle.card
        entries = [e for e in self.ledger.entries("reconstruction/") if "voxels" in e]
        for text in told_of_tiles(entries):
            self.context.warn(text)
        voxels = [entry["voxels"] for entry in entries]
        known = [entry["known"] for entry in entries]
        epistemic = sum(e["epistemic"] * n for e, n in zip(entries, known, strict=True)) / max(sum(known), 1)
        usual = _calibration(self.setup.bundle)["epistemic_sd"]
        if epistemic > UNKNOWN * usual:
            self.context.warn(
                f"the networks of {card.name} disagree {epistemic / usual:.1f} times as much as on the scans it was checked "
                "with: it was not trained on anything like this volume, do not rely on the result"
            )
        scores = {s.metric: s.value for s in card.scores}
        skipped = skipped_chunks(entries)
        return {
            "task": "reconstruct",
            "shape": list(self.setup.box.shape),
            "voxel_size_nm": [round(s, 4) for s in self.setup.voxel_nm],
            "blocks": math.prod(map(len, self.setup.lattice.places(self.setup.box))),
            "calibration": json.loads(json.dumps({**_calibration(self.setup.bundle), **scores})),
            "untrusted_share": round(sum(e["untrusted"] for e in entries) / sum(voxels), 5),
            "epistemic_sd": round(epistemic, 5),
            "warnings": self.context.warnings,
            **({"skipped_chunks": skipped} if skipped else {}),
        }
