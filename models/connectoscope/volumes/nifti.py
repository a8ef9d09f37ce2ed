"""Reading NIfTI 1 and 2 in one file (.nii, .nii.gz): axes x, y, z, then time and channels."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from connectoscope.errors import UserError
from connectoscope.volumes.directions import axes_from_directions
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.geometry import Float3, canonical_unit
from connectoscope.volumes.raw import Array, raw_voxels
from connectoscope.volumes.stores import file_stamp, first_line

_UNITS = {"meter": "m", "mm": "mm", "micron": "um"}


def is_nifti(head: bytes) -> bool:
    """Whether the first bytes, or what they unpack to, are those of a NIfTI."""
    head = _unpacked(head)
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def _unpacked(head: bytes) -> bytes:
    if head[:2] != b"\x1f\x8b":
        return head
    try:
        return zlib.decompressobj(31).decompress(head, 600)
    except zlib.error:
        return b""


def read_nifti(path: Path, name: str) -> FileImage:
    """The volume of a NIfTI file.

    Raises:
        UserError: the file is damaged, incomplete, or one of a pair (.hdr and .img).
    """
    with path.open("rb") as file:
        packed = "gzip" if file.read(2) == b"\x1f\x8b" else ""
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(600)
        kind = Nifti2Header if head[4:7] in (b"n+2", b"ni2") else Nifti1Header
        header: Any = kind.from_fileobj(io.BytesIO(head), check=False)  # type: ignore[no-untyped-call]
        if bytes(header["magic"].item())[:2] != b"n+":
            raise UserError(f"{path} is a pair of files (.hdr and .img): save it as one .nii file")
        return _image(path, name, header, packed)
    except UserError:
        raise
    except Exception as error:  # nibabel raises nearly everything on damaged headers
        raise UserError(
            f"{path} is not a readable NIfTI (damaged?): {first_line(error)}; fetch it again from its source"
        ) from error


def _image(path: Path, name: str, header: Any, packed: str) -> FileImage:
    shape = [int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1]]
    if not 2 <= len(shape) <= 7 or min(shape) < 1:
        raise UserError(f"{path} states shape {shape}, which is impossible (damaged?); fetch it again")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 5:
        raise UserError(f"{path} has {len(shape)} axes: only x, y, z, time and channels can be opened")
    axes, scale, shift, doubts = _space(header)
    letters = axes[: len(shape)] + "tc"[: max(len(shape) - 3, 0)]  # the standard's order
    if "z" not in letters and len(shape) == 2:
        letters = "xy"
    unit = canonical_unit(_UNITS.get(str(header.get_xyzt_units()[0]), ""))
    dtype = np.dtype(header.get_data_dtype())
    slope, start = float(header["scl_slope"]), float(header["scl_inter"])
    offset = int(header["vox_offset"]) or int(header.single_vox_offset)
    dims = shape[::-1]
    if not (math.isfinite(slope) and math.isfinite(start)) or (slope, start) in ((0, start), (1, 0)):
        array = raw_voxels(path, dims, dtype, offset, packed=packed)
    else:
        wide = np.dtype("f4")

        def rescaled(part: Array) -> Array:
            return (part * np.float64(slope) + start).astype(wide)

        array = raw_voxels(path, dims, dtype, offset, packed=packed, change=rescaled, changed=wide)
    return FileImage(
        source=str(path),
        name=name,
        format="NIfTI",
        axes=letters[::-1],
        levels=(FileLevel(array, scale, shift),),
        unit=unit,
        warnings=doubts,
        metadata=str(header.structarr.tolist()),
        stamp=file_stamp(path),
    )


def _space(header: Any) -> tuple[str, Float3 | None, Float3 | None, tuple[str, ...]]:
    if int(header["sform_code"]) > 0:
        affine = header.get_sform()
    elif int(header["qform_code"]) > 0:
        affine = header.get_qform()
    else:  # the oldest way: sizes without a place
        x, y, z = (abs(float(v)) for v in header["pixdim"][1:4])
        return "xyz", (z, y, x), None, ()
    return axes_from_directions(affine[:3, :3].T.tolist(), affine[:3, 3].tolist())
