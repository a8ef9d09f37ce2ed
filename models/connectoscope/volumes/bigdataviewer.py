"""Reading BigDataViewer's HDF5 (t00000/s00/0/cells) with the voxel size and place from the XML beside it.

View setups of one shape are channels; time points are times.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import tensorstore as ts

from connectoscope.errors import SeveralVolumes, UserError
from connectoscope.volumes.framing import FileImage, FileLevel
from connectoscope.volumes.geometry import Float3, canonical_unit
from connectoscope.volumes.hdf5 import lazy_dataset, open_hdf5
from connectoscope.volumes.stores import file_stamp, first_line

_SETUP, _TIME = re.compile(r"s(\d{2,})"), re.compile(r"t(\d{5,})")


def is_bigdataviewer(path: Path, inner: str) -> bool:
    """Whether an HDF5 file is laid out by BigDataViewer, and not just one dataset of it is asked for."""
    if inner.strip("/") and not _SETUP.fullmatch(inner.strip("/")):
        return False
    try:
        with open_hdf5(path) as file:
            return "t00000" in file and any(
                _SETUP.fullmatch(k) and "resolutions" in file[k]
                for k in file
                if isinstance(file.get(k), h5py.Group)
            )
    except (OSError, RuntimeError, ValueError, KeyError):
        return False


def data_file(xml: Path) -> Path:
    """The HDF5 file that a BigDataViewer XML names.

    Raises:
        UserError: it names none, or it is missing.
    """
    found = None
    try:
        found = ElementTree.parse(xml).getroot().find(".//ImageLoader/hdf5")
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also an encoding that is none
        raise UserError(f"{xml} is damaged ({error}); restore it from the original") from error
    if found is None or not found.text:
        raise UserError(f"{xml} names no HDF5 file; open its data (N5 or OME-Zarr) directly")
    path = xml.parent / found.text.strip()
    if not path.is_file():
        raise UserError(f"{xml}: its data file {path} does not exist; put it beside the XML")
    return path


def read_bigdataviewer(path: Path, inner: str, name: str) -> FileImage:
    """All view setups of a file as channels, or the one that ``inner`` names ("s00").

    Raises:
        UserError: the file is damaged, or its setups differ in shape and none is named.
    """
    try:
        return _image(path, inner.strip("/"), name)
    except UserError:
        raise
    except Exception as error:  # h5py and XML raise nearly everything on damaged files
        raise UserError(
            f"{path} is a damaged or incomplete BigDataViewer file ({type(error).__name__}: {first_line(error)}); "
            "fetch it again from its source"
        ) from error


def _image(path: Path, inner: str, name: str) -> FileImage:
    file = open_hdf5(path)
    times = sorted(k for k in file if _TIME.fullmatch(k))
    setups = sorted(k for k in file if _SETUP.fullmatch(k))
    if inner:
        if inner not in setups:
            raise UserError(f"{path} has no view setup '{inner}'; it has {', '.join(setups)}")
        setups = [inner]
    shapes = {file[f"t00000/{s}/0/cells"].shape for s in setups}
    if len(shapes) > 1:
        raise _several(file, path, setups, "of several shapes")
    factors = [tuple(float(v) for v in row) for row in file[f"{setups[0]}/resolutions"][:]]  # x, y, z
    spaces = [_from_xml(path, int(s[1:])) for s in setups]
    scale, shift, unit, _, doubts = spaces[0]
    if any(space[:3] != spaces[0][:3] for space in spaces):
        raise _several(file, path, setups, "at several places")
    levels = []
    for k, (x, y, z) in enumerate(factors):
        stacks = [ts.stack([_cells(file[f"{t}/{s}/{k}/cells"]) for s in setups]) for t in times]
        if scale is None:
            here = place = None
        else:
            here = (scale[0] * z, scale[1] * y, scale[2] * x)
            o, p, q = shift
            place = (
                o + (z - 1) / 2 * scale[0],
                p + (y - 1) / 2 * scale[1],
                q + (x - 1) / 2 * scale[2],
            )
        levels.append(FileLevel(ts.stack(stacks), here, place))
    return FileImage(
        source=str(path) + (f"::/{inner}" if inner else ""),
        name=name,
        format="BigDataViewer HDF5",
        axes="tczyx",
        levels=tuple(levels),
        unit=unit,
        channels=tuple(space[3] for space in spaces),
        warnings=doubts,
        metadata=f"{times} {setups} {factors} {scale} {shift} {unit}",
        stamp=file_stamp(path),
    )


def _several(file: h5py.File, path: Path, setups: list[str], how: str) -> SeveralVolumes:
    arrays = [file[f"t00000/{s}/0/cells"] for s in setups]
    return SeveralVolumes(
        f"{path} holds views {how}; name one, as {path.name}::{setups[0]}: {', '.join(setups)}",
        (
            (f"{path}::{s}", f"{' × '.join(map(str, a.shape))}  {a.dtype}")
            for s, a in zip(setups, arrays, strict=True)
        ),
    )


def _cells(dataset: h5py.Dataset) -> ts.TensorStore:
    # HDF5 for Java had no unsigned types: what is stored as int16 means uint16.
    return lazy_dataset(dataset, np.dtype("u2") if dataset.dtype == np.dtype("i2") else None)


def _from_xml(path: Path, setup: int) -> tuple[Float3 | None, Float3, str | None, str, tuple[str, ...]]:
    """Voxel size and place (z, y, x) of a setup, their unit, its name, and doubts."""
    xml = path.with_suffix(".xml")
    nowhere = (0.0, 0.0, 0.0)
    if not xml.is_file():
        return None, nowhere, None, "", (f"{xml.name} is not beside the file",)
    root = ElementTree.parse(xml).getroot()
    view = next((v for v in root.iterfind(".//ViewSetup") if v.findtext("id") == str(setup)), None)
    size = None if view is None else view.find("voxelSize")
    if view is None or size is None:
        return None, nowhere, None, "", ()
    x, y, z = (float(v) for v in size.findtext("size", "").split())
    unit = canonical_unit(size.findtext("unit", ""))
    world = np.eye(4)  # the first transform in the file is the last that is applied
    for step in root.iterfind(f".//ViewRegistration[@timepoint='0'][@setup='{setup}']/ViewTransform/affine"):
        rows = np.array([float(v) for v in (step.text or "").split()]).reshape(3, 4)
        world = world @ np.vstack([rows, [0, 0, 0, 1]])
    part, offset = world[:3, :3], world[:3, 3]
    stretch = np.diag(part)
    doubts: tuple[str, ...] = ()
    if not np.allclose(part, np.diag(stretch), atol=1e-6 * np.abs(part).max()):
        doubts = ("the view is turned in its world: its offset is kept, the rotation is not",)
    elif (stretch > 0).all():  # its world may be in pixels, or in the unit of the voxel size
        offset = offset * np.array((x, y, z)) / stretch
    if not np.isfinite(offset).all():
        offset = np.zeros(3)
    return (
        (z, y, x),
        (float(offset[2]), float(offset[1]), float(offset[0])),
        unit,
        view.findtext("name", ""),
        doubts,
    )
