"""Objects of one target, as phases of the block engine: parts of each block, their union, final labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from connectoscope.blockwise.destination import write_file
from connectoscope.blockwise.engine import Output, Phase
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Block, Place, id_of, place_of
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.segmentation.components import Objects, Parts, describe, join, local_labels, relabel
from connectoscope.segmentation.probabilities import read_probabilities
from connectoscope.volumes.geometry import Box


@dataclass(frozen=True)
class ObjectMaker:
    """Makes the objects of one output.

    Attributes:
        target: Name of the output.
        channel: Its index in ``store``.
        threshold: Foreground from this uint8 probability on.
        min_voxels: Smaller objects are dropped.
        store: The stored probabilities (c, z, y, x).
        blocks: Cover the image, in any order; ids are ``z_y_x`` on their lattice.
        scratch: Folder for the parts.
    """

    target: str
    channel: int
    threshold: int
    min_voxels: float
    store: ts.TensorStore
    blocks: list[Block]
    scratch: Path

    @property
    def parts_name(self) -> str:
        return f"{self.target}: components"

    @property
    def labels_name(self) -> str:
        return f"{self.target}: labels"

    def phases(self) -> list[Phase[NDArray[np.uint8]]]:
        """What must be complete before there are objects."""
        return [self.parts_phase()]

    def parts_phase(self) -> Phase[NDArray[np.uint8]]:
        """First pass: the parts of each block into scratch."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        shape = Box.of(tuple(self.store.shape)).shape

        def compute(block: Block, probabilities: NDArray[np.uint8]) -> Output:
            labels = local_labels(probabilities, self.threshold)
            count = int(labels.max())
            if not count:
                return Output(np.zeros(0, np.uint8), {"parts": 0})
            parts = describe(labels, probabilities, block.write, shape)
            return Output(np.frombuffer(parts.to_bytes(), np.uint8), {"parts": count})

        def write(block: Block, data: NDArray[Any]) -> None:
            if len(data):
                write_file(self._file(block.id), data.tobytes())

        read = read_probabilities(self.store, self.channel)
        return Phase(self.parts_name, self.blocks, read, compute, write)

    def objects(self, ledger: Ledger) -> Objects:
        """Join the parts of all blocks; the first pass must be complete."""
        prefix = f"{self.parts_name}/"
        counts: dict[Place, int] = {
            place_of(entry["id"].removeprefix(prefix)): entry["parts"]
            for entry in ledger.entries(prefix)
            if entry["parts"]
        }

        def load(place: Place) -> Parts:
            return Parts.from_bytes(self._file(id_of(place)).read_bytes())

        return join(counts, load, self.min_voxels)

    def labels_phase(
        self, objects: Objects, store: ts.TensorStore, pyramid: Pyramid | None
    ) -> Phase[NDArray[np.uint8]]:
        """Second pass: final labels into ``store`` (z, y, x)."""

        def compute(block: Block, probabilities: NDArray[np.uint8]) -> Output:
            numbers = objects.numbers.get(place_of(block.id))
            if numbers is None or not numbers.any():
                return Output(np.zeros(block.write.shape, objects.dtype))
            return Output(relabel(local_labels(probabilities, self.threshold), numbers, objects.dtype))

        def write(block: Block, data: NDArray[Any]) -> ts.WriteFutures:
            return store[block.write.slices].write(data)

        read = read_probabilities(self.store, self.channel)
        return Phase(self.labels_name, self.blocks, read, compute, write, pyramid)

    def _file(self, id: str) -> Path:
        return self.scratch / f"{id}.npz"
