"""Make a large volume with few objects, whose truth is known: for studies of cascades, and for nothing else.

``python recipes/make_sparse.py lightsheet|synapse-tiles OUT.ome.zarr --megavoxels 256 --seed 0``

These volumes are MADE. Texture, noise, cells and synapses are real and come from the sets in ``CONNECTOSCOPE_DATA``
(default ``../shared/data``); where they lie is drawn from the seed, so a score on them says how a cascade compares
with one level, and nothing about a brain. OUT becomes OME-Zarr 0.5 with a pyramid, OUT's stem + ``.truth.csv`` the
truth. The image is drawn box by box, any box alone, so memory does not grow with it.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy as np
from sparse_lightsheet import LightSheet
from sparse_synapses import SynapseTiles

from connectoscope.errors import ConnectoscopeError, UserError
from connectoscope.volumes import (
    ImageSpec,
    add_labels_group_entry,
    create_image,
    pyramid_factors,
    set_attributes,
)
from connectoscope.volumes.conversion import fill_pyramid
from connectoscope.volumes.geometry import Box, Float3, Index3

KINDS = {"lightsheet": LightSheet, "synapse-tiles": SynapseTiles}
log = logging.getLogger("make_sparse")


class Made(Protocol):
    """A made volume: everything about it, and its voxels in any box (z, y, x)."""

    shape: Index3
    dtype: np.dtype
    scale: Float3
    unit: str
    about: dict[str, str]  # title, source, citation, licence
    truth: list[tuple[float, ...]]  # rows under `columns`, voxels
    columns: tuple[str, ...]
    cell: Index3  # of the cascade theory, for the share of cells that hold an object

    def read(self, box: Box) -> np.ndarray: ...

    def labels(self, box: Box) -> np.ndarray | None: ...

    def positive(self) -> float: ...


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("out", type=Path, help="OME-Zarr to make (NAME.ome.zarr)")
    parser.add_argument("--megavoxels", type=float, default=256.0, help="size, about (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another volume (default: 0)")
    asked = parser.parse_args()
    try:
        make(asked.kind, asked.out, asked.megavoxels, asked.seed)
    except ConnectoscopeError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


def make(kind: str, out: Path, megavoxels: float, seed: int) -> None:
    """Write the volume and its truth.

    Raises:
        UserError: a data set is missing, the size is too small, or something is in the way.
    """
    if not out.name.endswith(".ome.zarr"):
        raise UserError(f"{out.name}: name it {out.name.split('.')[0]}.ome.zarr")
    started = time.perf_counter()
    made: Made = KINDS[kind].of_size(megavoxels, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    about = {**made.about, "kind": kind, "seed": seed, "made": "by recipes/make_sparse.py; no real volume"}
    _write(out, made, made.read, made.dtype, kind, is_labels=False)
    if made.labels(Box((0, 0, 0), (1, 1, 1))) is not None:
        add_labels_group_entry(out, "synapses")
        _write(
            out / "labels" / "synapses", made, made.labels, np.dtype(np.uint16), "synapses", is_labels=True
        )
    set_attributes(out, finished=True, sample=about)
    truth = out.with_name(out.name.removesuffix(".ome.zarr") + ".truth.csv")
    with truth.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([made.columns, *made.truth])
    log.info(
        "%s: %s voxels %s, %d objects, %.2f %% of the cells of %s voxels hold one; %.0f s",
        out,
        " x ".join(map(str, made.shape)),
        made.dtype,
        len(made.truth),
        100 * made.positive(),
        " x ".join(map(str, made.cell)),
        time.perf_counter() - started,
    )


def _write(root: Path, made: Made, read, dtype: np.dtype, name: str, *, is_labels: bool) -> None:
    spec = ImageSpec(
        shape=made.shape,
        dtype=dtype,
        scale=made.scale,
        translation=(0.0, 0.0, 0.0),
        unit=made.unit,
        chunks=(16, 128, 128),
        factors=pyramid_factors(made.shape, made.scale),
        name=name,
        is_labels=is_labels,
    )
    fill_pyramid(
        root,
        create_image(root, spec),
        spec,
        lambda _, box: read(box),
        source_chunks=made.shape,
        progress=lambda done, total: None,
    )


if __name__ == "__main__":
    sys.exit(main())
