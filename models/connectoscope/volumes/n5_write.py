"""Writing N5: levels s0, s1, … that N5 viewers, Paintera and BigDataViewer know, with COSEM's ``transform``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorstore as ts

from connectoscope.volumes.geometry import Index3, unit_symbol
from connectoscope.volumes.ome_zarr_write import ImageSpec, level_place, write_json
from connectoscope.volumes.stores import Location, context

Json = dict[str, Any]


def create_n5(root: Path, spec: ImageSpec) -> None:
    """Make the metadata and empty arrays at ``root``; axes in the file are the reverse of ``spec.axes``."""
    axes = spec.axes[::-1]
    lead = len(axes) - 3
    finest = spec.level_shape(0)
    chunks = [min(c, n) for c, n in zip(spec.chunks, finest, strict=True)]
    lead_shape = spec.lead_shape
    space: Json = {}
    if spec.unit is not None:
        resolution = {"dimensions": spec.scale[::-1], "unit": unit_symbol(spec.unit)}
        space = {
            "pixelResolution": resolution,
            "resolution": spec.scale[::-1],
            "offset": spec.translation[::-1],
        }
    factors = [list(f[::-1]) for f in spec.factors]
    group = {"n5": "2.5.0", "multiScale": True, "scales": factors, "axes": list(axes), **space}
    if spec.channels:
        group["channels"] = list(spec.channels)
    root.mkdir(parents=True, exist_ok=True)
    for level, factor in enumerate(factors):
        scale, shift = level_place(spec, level)
        attributes: Json = {
            "dimensions": [*spec.level_shape(level)[::-1], *lead_shape[::-1]],
            "blockSize": [*chunks[::-1], *[1] * lead],
            "dataType": spec.dtype.name,
            "compression": {"type": "gzip", "level": 3},
            "axes": list(axes),
            "downsamplingFactors": factor + [1] * lead,
        }
        if spec.unit is not None:
            units = [unit_symbol(spec.unit)] * 3
            attributes["transform"] = {
                "axes": list("zyx"), "scale": scale, "translate": shift, "units": units,
            }  # fmt: skip
        (root / f"s{level}").mkdir(exist_ok=True)
        write_json(root / f"s{level}" / "attributes.json", attributes)
    write_json(root / "attributes.json", group)


def open_n5_for_writing(root: Path, spec: ImageSpec) -> list[ts.TensorStore]:
    """One store a level, axes as in ``spec``."""
    stores = []
    for level in range(len(spec.factors)):
        kvstore = Location(str(root / f"s{level}")).spec()
        store = ts.open(
            {"driver": "n5", "kvstore": kvstore}, read=True, write=True, context=context()
        ).result()
        stores.append(store.transpose(list(range(store.rank))[::-1]))
    return stores


def n5_file(root: Path, spec: ImageSpec, level: int, lead: tuple[int, ...], index: Index3) -> Path:
    """The file of a chunk."""
    return root.joinpath(f"s{level}", *(str(i) for i in (*lead, *index)[::-1]))
