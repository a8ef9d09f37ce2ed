"""Neurons of any volume, as phases of the block engine: fragments, contacts, agglomeration, labels.

::

    cells (with halo) -> fragments -> scratch image -> contacts of each cell -+
                             +---------- what each fragment is ---------------+-> agglomeration -> labels, tables

Cells are blocks of one shape that follows from the voxel size alone. A fragment ends at the face of its cell, and
contacts across faces count as those inside, so that the agglomeration knows nothing of cells. What is held at once is a
cell, and the table of fragments and contacts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.blockwise.destination import make_image, write_file
from connectoscope.blockwise.engine import Output, Phase
from connectoscope.blockwise.grid import Grid
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.mask import Mask
from connectoscope.blockwise.plan import Block, Place, blocks_of, id_of, place_of
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.segmentation.components import (
    Labels,
    Objects,
    Parts,
    describe,
    objects_of,
    offsets_of,
)
from connectoscope.segmentation.neurons.agglomeration import agglomerate
from connectoscope.segmentation.neurons.contacts import Contacts, add_contacts, find_contacts
from connectoscope.segmentation.neurons.evidence import NEURONS, Evidence
from connectoscope.segmentation.neurons.fragments import mutex_fragments, seeded_fragments, split
from connectoscope.segmentation.neurons.seams import Seams, from_bytes, seams_of, strengthen, to_bytes
from connectoscope.volumes.geometry import Box, Float3, Index3
from connectoscope.volumes.ome_zarr_write import ImageSpec

CELL = 96  # voxels a side of an isotropic cell; flat voxels get flat cells of about as many
HALO = 16

Read = tuple[NDArray[np.uint8], Box]


def cell_of(voxel: Float3, side: int) -> Index3:
    """About ``side`` ** 3 voxels in the shape of a cube of tissue, for a voxel size z, y, x."""
    mean = float(np.prod(voxel)) ** (1 / 3)
    z, y, x = (max(round(side * mean / v), 1) for v in voxel)
    return (z, y, x)


@dataclass(frozen=True)
class Neurons(Objects):
    """Neurons 1..N, and the contacts between them."""

    contacts: Contacts


@dataclass(frozen=True)
class NeuronMaker:
    """Makes the neurons of a stored probability image.

    Attributes:
        evidence: What is read of it.
        threshold: Fragments are joined while their mean affinity is at least this (0-255).
        min_voxels: Smaller ones are absorbed by a neighbour, or dropped where they have none.
        store: The stored probabilities (c, z, y, x).
        spec: Of an image on the same voxels.
        voxel: Their size in nm.
        blocks: Cover the storage units of the labels.
        scratch: Folder for fragments and contacts.
        mask: Where it is 0 there are no neurons; with the grid that it is asked on, and where the result lies there.
        cell: Shape of the cells; None: what suits the voxel size.
    """

    evidence: Evidence
    threshold: int
    min_voxels: float
    store: ts.TensorStore
    spec: ImageSpec
    voxel: Float3
    blocks: list[Block]
    scratch: Path
    mask: tuple[Mask, Grid, Box] | None = None
    cell: Index3 | None = None

    fragments_name = f"{NEURONS}: fragments"
    contacts_name = f"{NEURONS}: contacts"
    labels_name = f"{NEURONS}: labels"

    @property
    def whole(self) -> Box:
        return Box.of(self.spec.shape)

    @cached_property
    def cells(self) -> list[Block]:
        return blocks_of(self.spec.shape, self.cell_shape)

    @cached_property
    def cell_shape(self) -> Index3:
        return self.cell or cell_of(self.voxel, CELL)

    @cached_property
    def image(self) -> ts.TensorStore:
        """Fragments, ids unique in the whole image: place of the cell * its size + number in the cell."""
        z, y, x = (min(a, b) for a, b in zip(self.cell_shape, self.spec.shape, strict=True))
        spec = ImageSpec(
            self.spec.shape,
            np.dtype(np.uint64),
            self.spec.scale,
            self.spec.translation,
            self.spec.unit,
            (z, y, x),
        )
        self.scratch.mkdir(parents=True, exist_ok=True)
        return make_image(self.scratch / "fragments.zarr", spec, self.scratch)[0]

    def phases(self) -> list[Phase[Read]]:
        """What must be complete, one after the other, before there are neurons."""
        return [self.fragments_phase(), self.contacts_phase()]

    def fragments_phase(self) -> Phase[Read]:
        """Fragments of each cell, and what each of them is, into scratch."""
        image = self.image

        def compute(block: Block, read: Read) -> Output:
            probabilities, box = read
            inner = block.write.within(box)
            affinities = self.evidence.affinities(probabilities)
            found = self._fragments(block, box, probabilities, affinities)
            labels = split(found[inner.slices])
            sure = affinities[(slice(3), *inner.slices)].mean(axis=0).astype(np.uint8)
            parts = describe(labels, sure, block.write, self.spec.shape)
            if len(parts):
                write_file(self._file("fragments", block.id), parts.to_bytes())
                write_file(self._file("seams", block.id), to_bytes(seams_of(found, inner)))
            return Output(labels, {"parts": len(parts)})

        def write(block: Block, labels: NDArray[Any]) -> ts.WriteFutures:
            ids = labels.astype(np.uint64)
            ids[labels > 0] += np.uint64(self._base(place_of(block.id)))
            return image[block.write.slices].write(ids)

        for kind in ("fragments", "seams"):
            (self.scratch / kind).mkdir(parents=True, exist_ok=True)
        margin = tuple(max(h, r) for h, r in zip(cell_of(self.voxel, HALO), self.evidence.reach, strict=True))
        return Phase(self.fragments_name, self.cells, self._read(margin), compute, write)  # type: ignore[arg-type]

    def contacts_phase(self) -> Phase[Read]:
        """Contacts of each cell into scratch; the fragments must be complete."""
        image = self.image

        def compute(block: Block, read: Read) -> Output:
            probabilities, box = read
            ids = np.asarray(image[box.slices].read().result())
            within = block.write.within(box)
            told = self.evidence.affinities(probabilities)
            affinities = told.copy()
            z, y, x = place_of(block.id)
            before = tuple(self._seams(place) for place in ((z - 1, y, x), (z, y - 1, x), (z, y, x - 1)))
            strengthen(affinities, within, self._seams((z, y, x)), before)
            found = find_contacts(ids, affinities, within, told)
            return Output(np.frombuffer(found.to_bytes(), np.uint8), {"contacts": len(found)})

        def write(block: Block, data: NDArray[Any]) -> None:
            write_file(self._file("contacts", block.id), data.tobytes())

        (self.scratch / "contacts").mkdir(parents=True, exist_ok=True)
        return Phase(self.contacts_name, self.cells, self._read((1, 1, 1)), compute, write)

    def objects(self, ledger: Ledger) -> Neurons:
        """The neurons; both phases must be complete."""
        counts = self._counts(ledger)
        rows = [
            Parts.from_bytes(self._file("fragments", id_of(place)).read_bytes()) for place in sorted(counts)
        ]
        contacts = add_contacts(
            Contacts.from_bytes(self._file("contacts", cell.id).read_bytes()) for cell in self.cells
        )
        contacts = contacts.grouped(self._index(contacts.pairs, counts) + np.uint64(1))
        voxels = np.concatenate([np.zeros(0, np.int64), *(parts.voxels for parts in rows)])
        root = agglomerate(len(voxels), contacts, voxels, self.threshold, self.min_voxels)
        objects = objects_of(counts, rows, root, self.min_voxels)
        return Neurons(**vars(objects), contacts=contacts.grouped(_numbers(objects)[contacts.pairs]))

    def labels_phase(
        self, objects: Objects, store: ts.TensorStore, pyramid: Pyramid | None
    ) -> Phase[NDArray[np.uint64]]:
        """Final labels into ``store`` (z, y, x)."""
        counts = {place: len(numbers) - 1 for place, numbers in objects.numbers.items()}
        numbers = _numbers(objects).astype(objects.dtype)
        image = self.image

        def read(block: Block) -> NDArray[np.uint64]:
            return np.asarray(image[block.write.slices].read().result())

        def compute(block: Block, ids: NDArray[np.uint64]) -> Output:
            index = np.zeros(ids.shape, np.uint64)
            index[ids > 0] = self._index(ids[ids > 0], counts) + np.uint64(1)
            return Output(numbers[index])

        def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
            return store[block.write.slices].write(data)

        return Phase(self.labels_name, self.blocks, read, compute, write, pyramid)

    def _fragments(
        self, block: Block, box: Box, probabilities: NDArray[np.uint8], affinities: NDArray[np.uint8]
    ) -> Labels:
        """Of a cell and what is around it, ``box``; 0 where the mask is 0."""
        inside = np.ones(box.shape, bool)
        if self.mask is not None:
            mask, grid, place = self.mask
            inside = mask.on(grid, box.shifted(place.start))
        if not inside[block.write.within(box).slices].any():
            return np.zeros(inside.shape, np.uint32)
        if self.evidence.mutex:
            found = mutex_fragments(affinities, self.evidence.offsets, self.threshold)
        else:
            found = seeded_fragments(probabilities[-1], 255 - self.threshold, self.voxel)
        return found * inside

    def _seams(self, place: Place) -> Seams:
        file = self._file("seams", id_of(place))
        return from_bytes(file.read_bytes()) if file.exists() else {}

    def _read(self, margin: Index3) -> Any:
        """Reads the evidence of a cell and ``margin`` around it, as far as there is an image."""

        def read(block: Block) -> Read:
            box = block.write.grown(margin).intersection(self.whole)
            channels = [
                np.asarray(self.store[(c, *box.slices)].read().result()) for c in self.evidence.channels
            ]
            return np.stack(channels), box

        return read

    def _counts(self, ledger: Ledger) -> dict[Place, int]:
        prefix = f"{self.fragments_name}/"
        entries = ledger.entries(prefix)
        return {place_of(e["id"].removeprefix(prefix)): e["parts"] for e in entries if e["parts"]}

    def _base(self, place: Place) -> int:
        """What is added to the numbers of the fragments of a cell."""
        across = [-(-n // c) for n, c in zip(self.spec.shape, self.cell_shape, strict=True)]
        return int(np.ravel_multi_index(place, across)) * (int(np.prod(self.cell_shape)) + 1)

    def _index(self, ids: NDArray[np.uint64], counts: dict[Place, int]) -> NDArray[np.uint64]:
        """Index 0.. of fragments among those of all cells, of ids that are not 0."""
        bases = np.array([self._base(place) for place in sorted(counts)], np.uint64)
        offsets = np.array(list(offsets_of(counts).values()), np.uint64)
        cell = np.searchsorted(bases, ids - np.uint64(1), side="right") - 1
        index: NDArray[np.uint64] = ids - bases[cell] - np.uint64(1) + offsets[cell]
        return index

    def _file(self, kind: str, id: str) -> Path:
        return self.scratch / kind / f"{id}.npz"


def _numbers(objects: Objects) -> NDArray[np.uint64]:
    """Number of the object of each fragment 1.. of all cells; 0 for 0."""
    return np.concatenate([np.zeros(1, np.uint64), *(n[1:] for n in objects.numbers.values())])
