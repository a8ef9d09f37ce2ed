"""The whole road from a volume to labels: probabilities, objects of each target, tables, in phases of the engine.

::

    volume -> grid -> tiles -> root image (c, z, y, x)  -> parts -> objects -> labels/<target>, tables/<target>.csv
                        |  scratch, where a box lies off   ^
                        +--------- the lattice ------------+
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts

from connectoscope.blockwise.destination import (
    delete_locks,
    make_image,
    write_file,
)
from connectoscope.blockwise.engine import Engine, Phase
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Block, Place, Plan, blocks_of, place_of
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.blockwise.tile import skipped_chunks, told_of_tiles
from connectoscope.cascade.make import cascade_of
from connectoscope.cascade.plan import CascadePlan
from connectoscope.cascade.run import Cascade, read_share, touched
from connectoscope.cascade.use import FLOOR, facts, kept_plan, told_of_plan, write_map
from connectoscope.segmentation.asked import check
from connectoscope.segmentation.cascaded import candidates, look_for, plan_segmentation, with_tile
from connectoscope.segmentation.components import Objects
from connectoscope.segmentation.elsewhere import makers
from connectoscope.segmentation.neurons.maker import NeuronMaker, Neurons
from connectoscope.segmentation.neurons.table import adjacency_table
from connectoscope.segmentation.objects import ObjectMaker
from connectoscope.segmentation.probabilities import (
    ProbabilityMaker,
    TilePredictor,
    alignment,
    planned_predictor,
    store_of_blocks,
)
from connectoscope.segmentation.setup import Setup, fix_plan
from connectoscope.segmentation.table import objects_table
from connectoscope.segmentation.targets import Target
from connectoscope.segmentation.trust import Uncertainty
from connectoscope.volumes.corrupt import told_of_skipped
from connectoscope.volumes.geometry import number_text
from connectoscope.volumes.ome_zarr_write import ImageSpec, add_labels_group_entry, set_attributes
from connectoscope.volumes.pyramid import pyramid_factors

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.segment import Segment
    from connectoscope.volumes import Volume
    from connectoscope.zoo import Bundle


def segment(volume: Volume, bundle: Bundle, parameters: Segment, context: Context) -> dict[str, Any]:
    """Make or go on with ``parameters.destination``; returns the summary.

    Raises:
        UserError: as :func:`check`.
        Cancelled: between blocks; what is finished is kept.
    """
    asked = check(volume, bundle, parameters, context)
    targets, setup, planned, existing = asked.targets, asked.setup, asked.planned, asked.existing
    destination = Path(parameters.destination)
    if existing is not None and existing.get("finished"):
        return _already_complete(destination, bundle, targets, existing["summary"], context)
    if existing is None:
        context.job.forget_progress()
    if parameters.cascade == "auto":
        planned = kept_plan(
            context,
            asked.basis,
            lambda: plan_segmentation(
                setup,
                targets,
                asked.basis,
                context,
                mask=asked.mask,
                asked=parameters.model_dump(exclude={"destination", "cascade"}),
                floor=FLOOR,
                seed=0,
            ),
            None if existing is None else destination,
        )
    warnings = [*asked.warnings, *told_of_plan(planned, parameters.cascade)]
    for text in warnings:
        context.warn(text)
    if planned is not None and planned.pays:
        setup = with_tile(setup, planned.tile)
    plan = fix_plan(setup, asked.identity, destination, existing, context)
    predictor = planned_predictor(bundle, plan, parameters.exact)
    cascade = None
    if planned is not None and planned.pays:
        gates = candidates(setup, targets, plan.intensity, plan.device, plan.threads)
        cascade = cascade_of(planned, gates, setup.lattice)
    old = [destination] if asked.found is not None and existing is None else []
    # In this order: nobody writes any more where the old result returns.
    with (
        context.replacing(*old),
        context.crew() as crew,
        Ledger(context.job.ledger_path) as ledger,
    ):
        run = _Run(
            setup=setup,
            plan=plan,
            predictor=predictor,
            targets=targets,
            destination=destination,
            context=context,
            ledger=ledger,
            engine=Engine(context, ledger, crew, revision=plan.revision),
            warnings=warnings,
            mask=asked.mask,
            cascade=cascade,
            planned=planned,
            uncertainty=Uncertainty.of(volume, setup.grid),
        )
        return run.all()


def _already_complete(
    destination: Path, bundle: Bundle, targets: list[Target], summary: dict[str, Any], context: Context
) -> dict[str, Any]:
    context.log(f"{destination} is already complete")
    _tell_image(destination, bundle, context)
    for target in targets:
        _tell_objects(destination, target.name, summary["objects"][target.name], context)
    return {**summary, "already_complete": True}


def _tell_image(destination: Path, bundle: Bundle, context: Context) -> None:
    channels = [output.name for output in bundle.card.outputs]
    context.result("image", destination, "probabilities", channels=channels)


def _tell_objects(destination: Path, name: str, count: int, context: Context) -> None:
    context.result("labels", destination / "labels" / name, name, objects=count)
    context.result("table", destination / "tables" / f"{name}.csv", name, objects=count)


@dataclass
class _Run:
    setup: Setup
    plan: Plan
    predictor: TilePredictor
    targets: list[Target]
    destination: Path
    context: Context
    ledger: Ledger
    engine: Engine
    warnings: list[str]
    mask: Mask | None
    cascade: Cascade | None
    planned: CascadePlan | None
    uncertainty: Uncertainty | None
    blocks: list[Block] = field(
        default_factory=list
    )  # of objects; of the whole image, until some are left out
    skipped: dict[str, Any] = field(default_factory=dict)

    def all(self) -> dict[str, Any]:
        """Run what is left; the summary."""
        began = time.monotonic()
        weights = dict.fromkeys(self.cascade.phase_names, 5.0) if self.cascade else {}
        weights |= {"probabilities": 100.0}
        if not self.setup.chunks_on_lattice:
            weights["alignment"] = 5.0
        for target in self.targets:
            parts = {"fragments": 60.0, "contacts": 8.0} if target.evidence else {"components": 4.0}
            parts |= {"labels": 6.0} | ({"trust": 2.0} if self.uncertainty else {})
            weights |= {f"{target.name}: {part}": weight for part, weight in parts.items()}
        self.context.phases(**weights)
        stores, factors = self._image()
        _tell_image(self.destination, self.setup.bundle, self.context)
        self.blocks = blocks_of(self.setup.box.shape, self.setup.lattice.core)
        voxels = self._probabilities(stores, factors)
        objects = {target.name: self._objects(target, stores[0], factors) for target in self.targets}
        self._warn_of_blocks()
        summary = {
            "task": "segment",
            "blocks": math.prod(map(len, self.setup.lattice.places(self.setup.box))),
            "objects": objects,
            "warnings": self.warnings,
            **self.skipped,
        }
        if chunks := skipped_chunks(self.ledger.entries("")):
            summary["skipped_chunks"] = chunks
        delete_locks(self.destination)
        set_attributes(self.destination, finished=True, summary=summary)
        rate = voxels / 1e6 / max(time.monotonic() - began, 1e-9)
        return {**summary, "megavoxels_per_second": round(rate, 3)}

    def _image(self) -> tuple[list[ts.TensorStore], tuple[tuple[int, int, int], ...]]:
        """The root image, made unless it is there, and the factors of its levels."""
        setup = self.setup
        factors = pyramid_factors(setup.box.shape, setup.grid.scale)
        spec = setup.image(
            np.dtype(np.uint8),
            channels=self.predictor.outputs,
            factors=factors,
            name=f"{setup.volume.name} {setup.bundle.card.name}",
            attributes=self._attributes(
                signature=self.plan.signature, grid=setup.facts(), outputs=self._outputs()
            ),
        )
        return make_image(self.destination, spec, self.context.scratch), factors

    def _outputs(self) -> list[dict[str, Any]]:
        """The channels, with the thresholds that this run uses: what ``evaluate`` needs to know."""
        used = {target.name: target.threshold for target in self.targets}
        return [
            {"name": o.name, "instances": o.instances, "threshold": used.get(o.name, o.threshold)}
            for o in self.setup.bundle.card.outputs
        ]

    def _attributes(self, **more: Any) -> dict[str, Any]:
        card = self.setup.bundle.card
        return {
            "connectoscope": {
                "finished": False,
                "request": self.context.provenance,
                "model": {"name": card.name, "version": card.version, "hash": self.setup.bundle.hash},
                **more,
            }
        }

    def _probabilities(self, stores: list[ts.TensorStore], factors: tuple[tuple[int, int, int], ...]) -> int:
        setup = self.setup
        look = look_for(self.targets, setup.voxel_nm3) if self.cascade else None
        maker = ProbabilityMaker(
            setup.grid, setup.lattice, self.predictor, self.plan.intensity, look, self.mask
        )
        pyramid = Pyramid(stores, factors, labels=False)
        store = store_of_blocks(
            setup, stores[0], self.predictor.outputs, self.destination, self.context.scratch
        )
        with makers(self.context.job, setup.volume.skipped is not None) as work:
            phase = replace(maker.phase(setup.box_of_blocks, store, None), elsewhere=work)
            voxels = self._run(phase, pyramid if setup.chunks_on_lattice else None)
        if not setup.chunks_on_lattice:
            self.engine.run(alignment(setup, self.blocks, store, stores[0], pyramid))
        return voxels

    def _run(self, phase: Phase[Any], pyramid: Pyramid | None) -> int:
        """All blocks of a phase or, behind a cascade, those that it passes; the number of voxels written."""
        if self.cascade is None:
            voxels = self.engine.run(replace(phase, pyramid=pyramid))
            self._skip({place_of(block.id) for block in phase.blocks})
            return voxels

        blocks = {place_of(block.id): block for block in phase.blocks}
        turn = {place: n for n, place in enumerate(blocks)}
        cells = set(blocks)

        def some(places: set[Place]) -> Phase[Any]:
            return replace(phase, blocks=[blocks[place] for place in sorted(places, key=turn.__getitem__)])

        accepted, woken, voxels = self.cascade.run(self.engine, self.ledger, cells, some)
        self.engine.run(replace(some(accepted | woken), pyramid=pyramid))  # only what is coarse is left
        self._skip(accepted | woken)
        self._tell_cascade(cells, accepted, woken, phase.name)
        return voxels

    def _skip(self, awake: set[Place]) -> None:
        """Only ``awake`` cells hold anything: the passes over objects leave out the others."""
        setup = self.setup
        blocks = setup.lattice.blocks(setup.box)
        if len(awake) < len(blocks):
            kept = [block.write for block in blocks if place_of(block.id) in awake]
            self.blocks = touched(self.blocks, kept, setup.lattice.core)
            share = read_share(awake, setup.lattice, setup.grid.shape)
            self.skipped["level0_read"] = round(1.0 if self.cascade and self.cascade.made else share, 4)

    def _tell_cascade(self, cells: set[Place], accepted: set[Place], woken: set[Place], fine: str) -> None:
        """``labels/cascade``, what was done with each cell, and what ``--json`` says of it."""
        if self.cascade is None or self.planned is None:
            return
        path = self.destination / "labels" / "cascade"
        add_labels_group_entry(self.destination, "cascade")
        setup = self.setup
        write_map(path, setup.lattice, setup.box, setup.grid, cells, accepted, woken, self.context)
        self.skipped["cascade"] = facts(self.planned, self.cascade.calls(self.ledger, fine), len(woken))

    def _objects(
        self, target: Target, store: ts.TensorStore, factors: tuple[tuple[int, int, int], ...]
    ) -> int:
        """Labels and table of one target; the number of its objects."""
        maker = self._maker(target, store)
        for phase in maker.phases():
            self.engine.run(phase)
        objects = maker.objects(self.ledger)
        spec = self._labels_spec(target, objects, factors)
        path = self.destination / "labels" / target.name
        add_labels_group_entry(self.destination, target.name)
        stores = make_image(path, spec, self.context.scratch)
        self.engine.run(maker.labels_phase(objects, stores[0], Pyramid(stores, factors, labels=True)))
        set_attributes(path, finished=True)
        self._table(target, objects, self._trust(target, objects, stores[0]))
        _tell_objects(self.destination, target.name, len(objects), self.context)
        return len(objects)

    def _trust(
        self, target: Target, objects: Objects, labels: ts.TensorStore
    ) -> list[tuple[str, ...]] | None:
        """Of objects in a reconstruction: how far each is to be trusted."""
        if self.uncertainty is None:
            return None
        scratch = self.context.scratch / f"{target.name}-trust"
        start = self.setup.box.start
        self.engine.run(self.uncertainty.phase(f"{target.name}: trust", labels, start, self.blocks, scratch))
        return self.uncertainty.columns(objects.voxels, self.blocks, scratch, number_text)

    def _maker(self, target: Target, store: ts.TensorStore) -> ObjectMaker | NeuronMaker:
        setup, scratch = self.setup, self.context.scratch / target.name
        min_voxels = target.min_volume_nm3 / setup.voxel_nm3 * (1 - 1e-12)
        if target.evidence is None:
            return ObjectMaker(
                target.name, target.channel, target.threshold, min_voxels, store, self.blocks, scratch
            )
        return NeuronMaker(
            target.evidence,
            target.threshold,
            min_voxels,
            store,
            setup.image(np.dtype(np.uint64)),
            setup.voxel_nm,
            self.blocks,
            scratch,
            None if self.mask is None else (self.mask, setup.grid, setup.box),
        )

    def _labels_spec(
        self, target: Target, objects: Objects, factors: tuple[tuple[int, int, int], ...]
    ) -> ImageSpec:
        return self.setup.image(
            objects.dtype,
            factors=factors,
            name=target.name,
            is_labels=True,
            attributes=self._attributes(
                threshold=target.threshold, min_volume_nm3=target.min_volume_nm3, objects=len(objects)
            ),
        )

    def _table(self, target: Target, objects: Objects, trust: list[tuple[str, ...]] | None) -> None:
        folder = self.destination / "tables"
        folder.mkdir(exist_ok=True)
        text = objects_table(objects, self.setup.grid, self.setup.box, self.setup.voxel_nm3, trust)
        about = self._attributes(
            threshold=target.threshold, min_volume_nm3=target.min_volume_nm3, objects=len(objects)
        )["connectoscope"]
        del about["finished"]
        tables = {target.name: text}
        if isinstance(objects, Neurons):
            tables["neurons-adjacency"] = adjacency_table(objects.contacts, self.setup.voxel_nm)
        for name, lines in tables.items():
            write_file(folder / f"{name}.json", (json.dumps(about, indent=1) + "\n").encode())
            write_file(folder / f"{name}.csv", lines.encode())

    def _warn_of_blocks(self) -> None:
        """What the ledger says about the blocks, which a resumed run knows as well as an unbroken one."""
        blocks = [
            e for e in self.ledger.entries("probabilities/") if "/level" not in e["id"]
        ]  # not of the pyramid
        told = told_of_tiles(blocks)
        seen = skipped_chunks(self.ledger.entries("probabilities/"))
        if others := [name for name in skipped_chunks(self.ledger.entries("")) if name not in seen]:
            told.append(told_of_skipped(others))
        for text in told:
            self.context.warn(text)
        self.warnings = [*self.warnings, *told]
