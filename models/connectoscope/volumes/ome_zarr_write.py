"""Writing OME-Zarr 0.5 (zarr 3), or 0.4 (zarr 2) on request.

Metadata first, then the arrays: a folder that this module began can always be told from a foreign one by the key
``connectoscope`` in its attributes, so ``overwrite`` never deletes anything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from connectoscope.errors import Unwritable, UserError
from connectoscope.volumes.geometry import Float3, Index3
from connectoscope.volumes.stores import context, first_line

Json = dict[str, Any]
KEY = "connectoscope"
_COLOURS = ("FFFFFF", "00FF00", "FF00FF", "00FFFF", "FFFF00", "FF8000")


@dataclass(frozen=True)
class ImageSpec:
    """Everything about an OME-Zarr image to be made.

    Attributes:
        shape, scale, translation, unit: Grid of level 0, axes (z, y, x); translation is the centre of voxel 0.
            Unit None: the voxel size is unknown and none is written.
        dtype: Integer or float.
        chunks: Shape (z, y, x) of a chunk, the same at every level, cut where a level is smaller.
        channels: Names; empty: axes zyx, else czyx with one channel a chunk.
        factors: Factor (z, y, x) of each level relative to level 0, the first (1, 1, 1).
        name: For people.
        is_labels: A label image (modes in the pyramid, OME ``image-label`` metadata).
        of_image: Labels of the image whose folder ``labels`` they are in.
        attributes: Further top-level attributes, JSON.
        shards: Shape (z, y, x) of a shard, a multiple of the chunk; None: every chunk is a file. Only for 0.5.
        version: "0.5" or "0.4".
        times: Number of time points; None: no time axis.
    """

    shape: Index3
    dtype: np.dtype[Any]
    scale: Float3
    translation: Float3
    unit: str | None
    chunks: Index3
    channels: tuple[str, ...] = ()
    factors: tuple[Index3, ...] = ((1, 1, 1),)
    name: str = ""
    is_labels: bool = False
    of_image: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shards: Index3 | None = None
    version: str = "0.5"
    times: int | None = None

    @property
    def axes(self) -> str:
        return ("" if self.times is None else "t") + ("c" if self.channels else "") + "zyx"

    @property
    def lead_shape(self) -> tuple[int, ...]:
        """Lengths of the axes before z."""
        return (() if self.times is None else (self.times,)) + (
            (len(self.channels),) if self.channels else ()
        )

    def level_shape(self, level: int) -> Index3:
        """Shape (z, y, x) of a level: lengths rounded up."""
        z, y, x = (-(-n // f) for n, f in zip(self.shape, self.factors[level], strict=True))
        return (z, y, x)


def level_place(spec: ImageSpec, level: int) -> tuple[list[float], list[float]]:
    """Voxel size and translation (z, y, x) of a level."""
    factor = spec.factors[level]
    scale = [f * s for f, s in zip(factor, spec.scale, strict=True)]
    shift = [t + (f - 1) / 2 * s for t, f, s in zip(spec.translation, factor, spec.scale, strict=True)]
    return scale, shift


def zarr_file(root: Path, spec: ImageSpec, level: int, lead: tuple[int, ...], index: Index3) -> Path:
    """The file of a storage unit: a shard, or a chunk."""
    folder = root / str(level) / "c" if spec.version == "0.5" else root / str(level)
    return folder.joinpath(*map(str, (*lead, *index)))


def create_image(path: Path | str, spec: ImageSpec, *, overwrite: bool = False) -> list[ts.TensorStore]:
    """Make the image's metadata and empty arrays (all 0); one store a level, axes as in the file.

    Args:
        overwrite: Delete what is there, if connectoscope made it.

    Raises:
        UserError: something is there already, or the place cannot be written.
    """
    root = Path(path)
    if spec.version not in ("0.4", "0.5"):
        raise UserError(f"OME-Zarr version '{spec.version}' cannot be written; choose 0.5 or 0.4")
    if spec.shards is not None and spec.version == "0.4":
        raise UserError("OME-Zarr 0.4 has no shards: leave them out, or write 0.5")
    _make_room(root, overwrite)
    try:
        root.mkdir(parents=True, exist_ok=True)
        attributes = {KEY: {}, **spec.attributes}
        ome = _ome(spec)
        if spec.version == "0.5":
            attributes = {"ome": {"version": "0.5", **ome}, **attributes}
            write_json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        else:
            write_json(root / ".zgroup", {"zarr_format": 2})
            write_json(root / ".zattrs", {**ome, **attributes})
        return [_create_array(root / str(k), spec, k) for k in range(len(spec.factors))]
    except (OSError, ValueError) as error:
        raise Unwritable(f"{root} cannot be written: {_reason(error)}") from error


def open_image_for_writing(path: Path | str) -> list[ts.TensorStore]:
    """The stores of an image that :func:`create_image` made, one a level, to go on writing.

    Raises:
        UserError: there is none.
    """
    root = Path(path)
    attributes = _read(root)[1]
    driver = "zarr3" if "ome" in attributes else "zarr"
    try:
        datasets = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
        return [
            ts.open(
                {"driver": driver, "kvstore": _kvstore(root / d["path"])},
                read=True,
                write=True,
                context=context(),
            ).result()
            for d in datasets
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{root} cannot be continued (damaged?): {_reason(error)}; start over with --overwrite"
        ) from error


def read_attributes(path: Path | str) -> Json:
    """What :func:`set_attributes` keeps; empty where there is nothing of ours.

    Raises:
        UserError: there is no zarr metadata at ``path``.
    """
    ours = _read(Path(path))[1].get(KEY)
    return dict(ours) if isinstance(ours, dict) else {}


def set_attributes(path: Path | str, **updates: Any) -> None:
    """Update the attributes under the key ``connectoscope``; all or nothing, also when killed.

    Raises:
        UserError: there is no zarr metadata at ``path``, or it cannot be written.
    """
    root = Path(path)
    document, attributes = _read(root)
    attributes[KEY] = {**(attributes.get(KEY) or {}), **updates}
    _write(root, document, attributes)


def add_labels_group_entry(root: Path | str, name: str) -> None:
    """List ``name`` in the ``labels`` group of the image at ``root``, which is made where missing.

    Raises:
        UserError: ``root`` is no image, or it cannot be written.
    """
    root = Path(root)
    group = root / "labels"
    is_v3 = "ome" in _read(root)[1]
    try:
        group.mkdir(exist_ok=True)
        if is_v3 and not (group / "zarr.json").exists():
            empty = {"ome": {"version": "0.5", "labels": []}}
            write_json(group / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": empty})
        elif not is_v3 and not (group / ".zattrs").exists():
            write_json(group / ".zgroup", {"zarr_format": 2})
            write_json(group / ".zattrs", {"labels": []})
    except OSError as error:
        raise Unwritable(f"{group} cannot be written: {_reason(error)}") from error
    document, attributes = _read(group)
    ome = attributes["ome"] if is_v3 else attributes
    if name not in ome["labels"]:
        ome["labels"] = sorted([*ome["labels"], name])
        _write(group, document, attributes)


def made_by_us(path: Path) -> bool:
    """Whether there is a zarr group at ``path`` that connectoscope began."""
    try:
        return KEY in _read(path)[1]
    except UserError:
        return False


def write_json(path: Path, document: Json) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _make_room(root: Path, overwrite: bool) -> None:
    try:
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return
        if not overwrite:
            raise UserError(
                f"{root} exists; choose another destination, or --overwrite a result of connectoscope"
            )
        if not made_by_us(root):
            raise UserError(
                f"{root} was not made by connectoscope and is not overwritten: choose another destination"
            )
        shutil.rmtree(root)
    except OSError as error:
        raise Unwritable(f"{root} cannot be written: {_reason(error)}") from error


def _read(root: Path) -> tuple[Json, Json]:
    """The document that holds the attributes, and the attributes (for zarr 2 the same object)."""
    for name in ("zarr.json", ".zattrs"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            try:
                document: Json = json.loads((root / name).read_text(encoding="utf-8"))
                return document, (document.setdefault("attributes", {}) if name == "zarr.json" else document)
            except (ValueError, AttributeError, PermissionError) as error:
                raise UserError(f"{root / name} is damaged or may not be read: {_reason(error)}") from error
    raise UserError(f"{root} is not an OME-Zarr: it has no zarr metadata")


def _write(root: Path, document: Json, attributes: Json) -> None:
    try:
        write_json(root / (".zattrs" if document is attributes else "zarr.json"), document)
    except OSError as error:
        raise Unwritable(f"{root} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else first_line(error)


def _kvstore(folder: Path) -> Json:
    return {"driver": "file", "path": folder.absolute().as_posix() + "/"}


def _ome(spec: ImageSpec) -> Json:
    lead = len(spec.axes) - 3
    kinds = {"t": ("t", "time"), "c": ("c", "channel")}
    axes: list[Json] = [dict(zip(("name", "type"), kinds[a], strict=True)) for a in spec.axes[:lead]]
    for name in "zyx":
        axes.append({"name": name, "type": "space"} | ({} if spec.unit is None else {"unit": spec.unit}))
    datasets = []
    for k in range(len(spec.factors)):
        scale, shift = level_place(spec, k)
        steps = [
            {"type": "scale", "scale": [1.0] * lead + scale},
            {"type": "translation", "translation": [0.0] * lead + shift},
        ]
        datasets.append({"path": str(k), "coordinateTransformations": steps})
    multiscale: Json = {
        "name": spec.name,
        "axes": axes,
        "datasets": datasets,
        "type": "mode" if spec.is_labels else "mean",
    }
    if spec.version == "0.4":
        multiscale["version"] = "0.4"
    ome: Json = {"multiscales": [multiscale]}
    if spec.channels:
        ome["omero"] = {"channels": [_channel(spec, i) for i in range(len(spec.channels))]}
    if spec.is_labels:
        ome["image-label"] = {"source": {"image": "../../"}} if spec.of_image else {}
    return ome


def _channel(spec: ImageSpec, index: int) -> Json:
    channel: Json = {
        "label": spec.channels[index],
        "color": _COLOURS[index % len(_COLOURS)] if len(spec.channels) > 1 else _COLOURS[0],
        "active": index == 0,
    }
    if spec.dtype == np.uint8:
        channel["window"] = {"min": 0, "max": 255, "start": 0, "end": 255}
    return channel


def _create_array(folder: Path, spec: ImageSpec, level: int) -> ts.TensorStore:
    space = spec.level_shape(level)
    lead_shape = spec.lead_shape
    ones = (1,) * len(lead_shape)
    shape = [*lead_shape, *space]
    chunk = [min(c, n) for c, n in zip(spec.chunks, space, strict=True)]
    dtype = np.dtype(spec.dtype)
    if spec.version == "0.4":
        metadata: Json = {
            "shape": shape,
            "chunks": [*ones, *chunk],
            "dtype": dtype.newbyteorder("<").str,
            "compressor": {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1},
            "dimension_separator": "/",
            "fill_value": 0,
        }
        driver = "zarr"
    else:
        blosc = {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "typesize": dtype.itemsize}
        codecs: list[Json] = [
            {"name": "bytes", "configuration": {"endian": "little"}}
            if dtype.itemsize > 1
            else {"name": "bytes"},
            {"name": "blosc", "configuration": blosc},
            {"name": "crc32c"},  # damage is noticed instead of decoded
        ]
        unit = chunk
        if spec.shards is not None:
            unit = [-(-min(s, n) // c) * c for s, n, c in zip(spec.shards, space, chunk, strict=True)]
            inner = {"chunk_shape": [*ones, *chunk], "codecs": codecs}
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
        metadata = {
            "shape": shape,
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*ones, *unit]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": codecs,
            "fill_value": 0,
            "dimension_names": list(spec.axes),
        }
        driver = "zarr3"
    request = {"driver": driver, "kvstore": _kvstore(folder), "metadata": metadata}
    return ts.open(request, create=True, read=True, write=True, context=context()).result()
