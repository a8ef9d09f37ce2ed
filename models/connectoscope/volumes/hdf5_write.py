"""Writing HDF5: one chunked dataset ``volume`` with CREMI's attributes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from connectoscope.volumes.conversion import Progress, Read, reading_once, regions, slab_of
from connectoscope.volumes.geometry import Index3, convert_length
from connectoscope.volumes.ome_zarr_write import ImageSpec


def write_hdf5(path: Path, spec: ImageSpec, read: Read, *, source_chunks: Index3, progress: Progress) -> None:
    """Write level 0 of the image as the file ``path``; axes as in ``spec``.

    Raises:
        OSError: it cannot be written.
    """
    lead_shape = spec.lead_shape
    chunks = tuple(min(c, n) for c, n in zip(spec.chunks, spec.shape, strict=True))
    boxes = list(regions(spec.shape, spec.chunks, spec.dtype.itemsize, source_chunks))
    work = [(lead, box) for lead in np.ndindex(*lead_shape) for box in boxes]
    slab, done = slab_of(boxes, spec, source_chunks), 0
    reading = reading_once(
        read, boxes, slab, spec, source_chunks, path.parent, lambda: progress(done, len(work))
    )
    # Chunks are written whole, so none is cached: on a full disk HDF5 crashes when it throws away what it holds.
    with h5py.File(path, "w", rdcc_nbytes=0) as file, reading as read_once:
        data = file.create_dataset(
            "volume", (*lead_shape, *spec.shape), spec.dtype,
            chunks=((1,) * len(lead_shape) + chunks), compression="gzip", compression_opts=3, shuffle=True,
        )  # fmt: skip
        data.attrs["axes"] = spec.axes
        if spec.unit is not None:
            data.attrs["resolution"], data.attrs["offset"] = spec.scale, spec.translation
            data.attrs["units"] = spec.unit
            data.attrs["element_size_um"] = convert_length(spec.scale, spec.unit, "micrometer")
        if spec.channels:
            data.attrs["channels"] = list(spec.channels)
        for done, (lead, box) in enumerate(work):
            progress(done, len(work))
            data[(*lead, *box.slices)] = read_once(lead, box)
    progress(len(work), len(work))
