"""A bioimage.io model package (specification 0.5) as it lies on disk, a folder or a zip: read, never unpacked or run.

Only files that its description names are read, each to a limit, so that no name leaves the package and no zip fills a
disk. The description is YAML without tags, merges or references to code, and with few aliases.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from connectoscope.errors import UserError

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
PICKLED = {".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
OWN = "connectoscope"  # our part of the description's config
MEBI = 2**20
DESCRIPTION_LIMIT, FILE_LIMIT = MEBI // 4, 2048 * MEBI  # bytes
DENSE = 64 * MEBI  # bytes; larger files
DENSEST = 100  # are not packed to less than a hundredth of their size
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack to any size, whatever was asked for
ALIASES = 16  # in a whole description; our own have one


class _Part(BaseModel):
    """What we need of the description; the rest is not our business."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Length(_Part):
    """Of an input: ``min`` and multiples of ``step`` more. Of an output: as that axis of that tensor, and ``offset``."""

    min: Annotated[int, Field(ge=1)] | None = None
    step: Annotated[int, Field(ge=1)] | None = None
    tensor_id: str | None = None
    axis_id: str | None = None
    offset: int = 0


class Axis(_Part):
    type: Literal["batch", "channel", "space", "time", "index"]
    id: str = ""
    size: Annotated[int, Field(ge=1)] | Length | None = None
    unit: str | None = None
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    halo: Annotated[int, Field(ge=0)] = 0
    channel_names: tuple[str, ...] = ()

    @property
    def letter(self) -> str:
        """b, c, z, y or x, or the whole id where it is none of them."""
        return {"batch": "b", "channel": "c"}.get(self.type, self.id if self.type == "space" else self.type)


class Source(_Part):
    source: str
    sha256: str | None = None


class Processing(_Part):
    id: str
    kwargs: dict[str, Any] = {}


class Tensor(_Part):
    id: str
    description: str = ""
    axes: tuple[Axis, ...] = Field(min_length=1, max_length=6)
    test_tensor: Source | None = None
    preprocessing: tuple[Processing, ...] = Field((), max_length=32)
    postprocessing: tuple[Processing, ...] = Field((), max_length=32)

    @property
    def letters(self) -> str:
        return "".join(axis.letter for axis in self.axes)


class Description(_Part):
    """``rdf.yaml`` of a model."""

    type: Literal["model"]
    format_version: str
    name: str
    description: str | None = None
    version: str | int | float | None = None
    id: str | None = None
    license: str | Source | None = None
    authors: tuple[dict[str, Any], ...] = ()
    cite: tuple[dict[str, Any], ...] = ()
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    weights: dict[str, Any]
    attachments: tuple[Source, ...] = ()
    config: dict[str, Any] = {}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """Safe, and without merges (``<<``) and with few aliases, which can make much of little."""

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > ALIASES:
                raise yaml.YAMLError(f"it has more than {ALIASES} aliases")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it merges mappings with <<")


class Package:
    """The files of a package.

    Raises:
        UserError: there is no package at ``path``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_dir():
            return
        kind = path.suffix.lower()
        if kind in PICKLED:  # some of them are zips, too
            raise UserError(
                f"{path}: pickled weights are never opened; export the network to ONNX and wrap it as a bioimage.io package"
            )
        if kind == ".onnx":
            raise UserError(
                f"{path}: an ONNX file alone does not say what its axes and intensities are; wrap it as a bioimage.io package"
            )
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise UserError(f"there is no file or folder '{path}'") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except zipfile.BadZipFile:
            with path.open("rb") as file:
                damaged = file.read(4) == b"PK\x03\x04"
            raise UserError(
                f"{path} is damaged: download it again"
                if damaged
                else f"{path} is not a bioimage.io package: neither a zip nor a folder"
            ) from None

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self) -> Description:
        """What the package says of itself.

        Raises:
            UserError: it says nothing, or nothing that can be used.
        """
        name = next((name for name in DESCRIPTIONS if self._has(name)), None)
        if name is None:
            raise UserError(f"{self.path} is not a bioimage.io package: it has no {DESCRIPTIONS[0]}")
        try:
            values = yaml.load(self.read(name, limit=DESCRIPTION_LIMIT), _Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = " ".join(str(error).split())[:160]
            raise UserError(f"{name} of {self.path} cannot be read: {why}") from None
        if not isinstance(values, dict) or values.get("type") != "model":
            raise UserError(f"{self.path} is not the package of a model")
        version = str(values.get("format_version"))
        if not version.startswith("0.5."):
            raise UserError(
                f"{self.path} is of format {version}, connectoscope reads 0.5; "
                "bring it up to date: bioimageio update-format (of the package bioimageio.core)"
            )
        try:
            return Description.model_validate(values)
        except (ValidationError, RecursionError) as error:
            told = "it is nested too deeply"
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise UserError(f"{name} of {self.path} is damaged: {told}") from None

    def read(self, name: str, sha256: str | None = None, *, limit: int = FILE_LIMIT) -> bytes:
        """A file of the package.

        Raises:
            UserError: it is missing, outside the package, larger than ``limit`` bytes, or not the one of that sha256.
        """
        if "://" in name:
            raise UserError(
                f"{self.path} does not hold its files but refers to {name}; get the whole package as a zip"
            )
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or ":" in name:
            raise UserError(f"{self.path} names a file outside itself: {name!r}")
        try:
            data = self._data(name, limit)
        except (KeyError, FileNotFoundError, IsADirectoryError):
            raise UserError(f"{self.path} is incomplete: it has no {name}") from None
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{name} of {self.path} cannot be read: {error}") from None
        if len(data) > limit:
            raise UserError(f"{name} of {self.path} is larger than {limit // 1024} KiB, which no model needs")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(
                f"{name} of {self.path} is damaged (its sha256 is not the one stated); get the package again"
            )
        return data

    def read_array(self, file: Source) -> NDArray[Any]:
        """An array of numbers in a ``.npy``.

        Raises:
            UserError: as :meth:`read`, or it is none.
        """
        data = io.BytesIO(self.read(file.source, file.sha256))
        try:
            version = np.lib.format.read_magic(data)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = header(data)
            size = len(data.getbuffer()) - data.tell()
            if dtype.kind not in "biuf" or dtype.itemsize * _product(shape) != size:
                raise ValueError(f"{shape} {dtype} in {size} bytes")
            data.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(data, allow_pickle=False)
        except (ValueError, TypeError, EOFError) as error:
            raise UserError(f"{file.source} of {self.path} is not an array of numbers: {error}") from None
        return array

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file() if self._zip is None else name in self._zip.namelist()

    def _data(self, name: str, limit: int) -> bytes:
        """At most one byte more than ``limit``, whatever the file says that it has."""
        if self._zip is not None:
            info = self._zip.getinfo(name)
            if info.compress_type not in PACKED:
                raise UserError(f"{name} of {self.path} is not packed by deflate; pack the package again")
            if info.file_size > DENSE and info.file_size > DENSEST * info.compress_size:
                raise UserError(f"{name} of {self.path} is packed like a zip bomb and is not opened")
            with self._zip.open(info) as file:
                return file.read(min(limit, info.file_size) + 1)
        path = (self.path / name).resolve()
        if self.path.resolve() not in path.parents:
            raise UserError(f"{self.path} names a file outside itself: {name!r}")
        with path.open("rb") as plain:
            return plain.read(limit + 1)


def _product(shape: Sequence[int]) -> int:
    total = 1  # math.prod of numpy's integers would overflow
    for n in shape:
        total *= int(n)
    return total
