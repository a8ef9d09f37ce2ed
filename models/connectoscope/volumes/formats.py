"""What a volume can be written as, told by the ending of the destination's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tensorstore as ts

from connectoscope.errors import UserError
from connectoscope.volumes.conversion import Progress, Read, UnitFile
from connectoscope.volumes.geometry import Float3, Index3
from connectoscope.volumes.hdf5_write import write_hdf5
from connectoscope.volumes.n5_write import create_n5, n5_file, open_n5_for_writing
from connectoscope.volumes.ome_zarr_write import ImageSpec, create_image, open_image_for_writing, zarr_file
from connectoscope.volumes.precomputed_write import (
    create_precomputed,
    open_precomputed_for_writing,
    precomputed_file,
    rounding,
)
from connectoscope.volumes.pyramid import pyramid_factors
from connectoscope.volumes.tiff_write import planar_factors, write_ome_tiff

_SMALL = "uint8 int8 uint16 int16 uint32 int32 float32"
_ALL = f"{_SMALL} uint64 int64 float64"


class WriteFile(Protocol):
    """Writes a single file in one go; nothing but memory for a few blocks is used."""

    def __call__(
        self, path: Path, spec: ImageSpec, read: Read, *, source_chunks: Index3, progress: Progress
    ) -> None: ...


@dataclass(frozen=True)
class Chunked:
    """A folder whose storage units are written one by one, so that it can be gone on with.

    Attributes:
        create: Makes the metadata.
        reopen: Its stores, one a level, axes as in the spec.
        unit_file: The file of a storage unit: of the level, the indices of the axes before z, and its own z, y, x.
    """

    create: Callable[[Path, ImageSpec], Any]
    reopen: Callable[[Path, ImageSpec], list[ts.TensorStore]]
    unit_file: UnitFile


@dataclass(frozen=True)
class Format:
    """A format to write.

    Attributes:
        name: For people.
        dtypes: Names of the numbers that it holds.
        write: How.
        factors: Its pyramid (z, y, x) from shape and voxel size.
        stacks: Whether it holds several channels and time points.
        measured: Whether it must state a voxel size.
        note: What to tell a person about an image in it; "": nothing.
    """

    name: str
    dtypes: str
    write: Chunked | WriteFile
    factors: Callable[[Index3, Float3], tuple[Index3, ...]] = pyramid_factors
    stacks: bool = True
    measured: bool = False
    note: Callable[[ImageSpec], str] = lambda spec: ""

    def check(self, spec: ImageSpec) -> None:
        """Raises UserError when the format cannot hold the image."""
        if spec.dtype.name not in self.dtypes.split():
            raise UserError(
                f"{self.name} cannot hold {spec.dtype} values, only {self.dtypes.replace(' ', ', ')}; "
                "write OME-Zarr (NAME.ome.zarr)"
            )
        if spec.lead_shape and not self.stacks:
            raise UserError(
                f"{self.name} is written with one channel and time; choose with --channel and --time, or write OME-Zarr"
            )
        if spec.unit is None and self.measured:
            raise UserError(
                f"{self.name} must state a voxel size, and the source has none; give it, for example --voxel-size 40,4,4nm"
            )


_TIFF = Format("OME-TIFF", f"{_SMALL} float64", write_ome_tiff, planar_factors)
_HDF5 = Format("HDF5", f"{_ALL} float16", write_hdf5, lambda shape, scale: ((1, 1, 1),))
FORMATS = {
    ".zarr": Format(
        "OME-Zarr",
        f"{_ALL} float16",
        Chunked(create_image, lambda path, spec: open_image_for_writing(path), zarr_file),
    ),
    ".n5": Format("N5", _ALL, Chunked(create_n5, open_n5_for_writing, n5_file)),
    ".precomputed": Format(
        "Neuroglancer precomputed",
        f"{_SMALL} uint64",
        Chunked(create_precomputed, open_precomputed_for_writing, precomputed_file),
        stacks=False,
        measured=True,
        note=rounding,
    ),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}


def format_of(path: Path) -> Format:
    """The format that the name of ``path`` asks for.

    Raises:
        UserError: none that is written ends so.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        stem = path.name.removeprefix("sample:").split(".")[0] or "volume"
        raise UserError(
            f"{path.name or path}: name it {stem}.ome.zarr, or for another format {stem}.n5, {stem}.precomputed, {stem}.ome.tif "
            f"or {stem}.h5"
        )
    return found
