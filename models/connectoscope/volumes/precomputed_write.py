"""Writing Neuroglancer precomputed volumes: nanometres, offsets in whole voxels, one channel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import tensorstore as ts

from connectoscope.volumes.geometry import Index3, convert_length
from connectoscope.volumes.ome_zarr_write import ImageSpec, write_json
from connectoscope.volumes.stores import Location, context

Json = dict[str, Any]


def create_precomputed(root: Path, spec: ImageSpec) -> None:
    """Make the info file at ``root``. Raises ValueError without a unit: the format states sizes in nanometres."""
    if spec.unit is None:
        raise ValueError("precomputed volumes state a voxel size")
    scales = []
    for level, factor in enumerate(spec.factors):
        shape = spec.level_shape(level)
        size = convert_length(spec.scale, spec.unit, "nanometer")
        scale: Json = {
            "key": f"s{level}",
            "size": shape[::-1],
            "resolution": [s * f for s, f in zip(size, factor, strict=True)][::-1],
            "voxel_offset": voxel_offset(spec, level)[::-1],
            "chunk_sizes": [_chunks(spec, level)[::-1]],
            "encoding": "raw",
        }
        if spec.is_labels and spec.dtype.name in ("uint32", "uint64"):
            scale |= {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
        elif spec.dtype.name in ("uint8", "uint16"):
            scale["encoding"] = "png"  # loses nothing
        scales.append(scale)
    root.mkdir(parents=True, exist_ok=True)
    info = {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if spec.is_labels else "image",
        "data_type": spec.dtype.name,
        "num_channels": 1,
        "scales": scales,
    }
    write_json(root / "info", info)


def voxel_offset(spec: ImageSpec, level: int) -> Index3:
    """The index (z, y, x) of the level's first voxel: its place, rounded to a whole voxel."""
    z, y, x = (
        math.floor(t / (s * f) + 0.5)
        for t, s, f in zip(spec.translation, spec.scale, spec.factors[level], strict=True)
    )
    return (z, y, x)


def rounding(spec: ImageSpec) -> str:
    """What to say where the offset of a level is no whole number of its voxels; else ""."""
    moved = [
        abs(t / (s * f) - o)
        for level, factor in enumerate(spec.factors)
        for t, s, f, o in zip(spec.translation, spec.scale, factor, voxel_offset(spec, level), strict=True)
    ]
    if max(moved) < 1e-6:
        return ""
    return f"precomputed volumes begin at whole voxels: levels are moved by up to {max(moved):.2g} of their voxels"


def _chunks(spec: ImageSpec, level: int) -> Index3:
    z, y, x = (min(c, n) for c, n in zip(spec.chunks, spec.level_shape(level), strict=True))
    return (z, y, x)


def open_precomputed_for_writing(root: Path, spec: ImageSpec) -> list[ts.TensorStore]:
    """One store a level, axes as in ``spec``, origin 0."""
    stores = []
    for level in range(len(spec.factors)):
        request = {
            "driver": "neuroglancer_precomputed",
            "kvstore": Location(str(root)).spec(),
            "scale_index": level,
        }
        store = ts.open(request, read=True, write=True, context=context()).result()
        stores.append(store[..., 0].transpose([2, 1, 0])[ts.d[:].translate_to[0]])
    return stores


def precomputed_file(root: Path, spec: ImageSpec, level: int, lead: tuple[int, ...], index: Index3) -> Path:
    """The file of a chunk."""
    spans = []
    for i, c, n, o in zip(
        index, _chunks(spec, level), spec.level_shape(level), voxel_offset(spec, level), strict=True
    ):
        spans.append(f"{o + i * c}-{o + min((i + 1) * c, n)}")
    return root / f"s{level}" / "_".join(spans[::-1])
