"""Where bytes are: a local folder or a URL, read through TensorStore's key-value stores."""

from __future__ import annotations

import errno
import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorstore as ts

from connectoscope.errors import Unreadable, UserError
from connectoscope.volumes.corrupt import is_corrupt

CACHE_BYTES = 256 * 2**20  # of decoded chunks, for whoever looks at the same ones again and again
ENGINE_CACHE_BYTES = 64 * 2**20  # for who reads each once, but for a halo
REMOTE_SCHEMES = ("http", "https", "s3", "gs")


@functools.cache
def context() -> ts.Context:
    """The process-wide pool for decoded chunks (``CACHE_BYTES``) and patience with slow servers: a few seconds, then a word."""
    patience = {"max_retries": 3, "initial_delay": "200ms", "max_delay": "2s"}
    retries = {f"{server}_request_retries": patience for server in ("http", "s3", "gcs")}
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}, **retries})


def use_engine_cache() -> None:
    """Little is kept in this process, so that memory does not grow with the volume; before anything is opened."""
    global CACHE_BYTES
    CACHE_BYTES = ENGINE_CACHE_BYTES


def is_url(text: str) -> bool:
    return text.split("://", 1)[0].lower() in REMOTE_SCHEMES and "://" in text


@dataclass(frozen=True)
class Location:
    """A folder, local or remote. ``text`` is its absolute path or URL, without a slash at the end."""

    text: str

    @classmethod
    def of(cls, source: str) -> Location:
        if not is_url(source):
            return cls(str(Path(source).absolute()))
        try:
            server = urlsplit(source).netloc
        except ValueError as error:
            raise UserError(f"'{source}' is not a valid address ({error}); check it") from None
        if not server:
            raise UserError(f"'{source}' names no server; give a whole address, as https://HOST/PATH")
        return cls(source.rstrip("/"))

    @property
    def remote(self) -> bool:
        return is_url(self.text)

    def child(self, name: str) -> Location:
        name = name.strip("/")
        return self if name in ("", ".") else Location(f"{self.text}/{name}")

    def spec(self) -> dict[str, Any]:
        """The TensorStore key-value store of this folder."""
        if not self.remote:
            return {"driver": "file", "path": Path(self.text).as_posix() + "/"}
        parts = urlsplit(self.text)
        path = parts.path.strip("/") + "/"
        if parts.scheme.lower() in ("s3", "gs"):
            driver = {"s3": "s3", "gs": "gcs"}[parts.scheme.lower()]
            return {"driver": driver, "bucket": parts.netloc, "path": path}
        base = f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else "")
        return {"driver": "http", "base_url": base, "path": path}

    def read_json(self, key: str) -> tuple[dict[str, Any], str] | None:
        """The JSON object at ``key`` and its stamp (etag or modification time); None where there is none.

        Raises:
            Unreadable: its server does not give it.
            UserError: it cannot be read, or is no JSON object.
        """
        try:
            answer = ts.KvStore.open(self.spec(), context=context()).result().read(key).result()
        except (ValueError, OSError) as error:
            if self.remote and "PERMISSION_DENIED" in str(error):
                return None  # many object stores answer so where there is nothing
            line = f"cannot read {self.text}/{key}; check "
            if self.remote:
                raise Unreadable(f"{line}the address and the connection ({first_line(error)})") from error
            raise UserError(f"{line}its permissions ({first_line(error)})") from error
        if answer.state != "value":
            return None
        try:
            value = json.loads(answer.value)
        except ValueError as error:
            raise UserError(
                f"{self.text}/{key} is damaged: it is not JSON ({error}); restore it from the original"
            ) from error
        if not isinstance(value, dict):
            raise UserError(
                f"{self.text}/{key} is damaged: it does not hold a JSON object; restore it from the original"
            )
        if self.remote:
            return value, answer.stamp.generation.hex()
        return value, file_stamp(Path(self.text) / key)


def file_stamp(path: Path) -> str:
    """The modification time of a file, for signatures; "" where there is none."""
    try:
        return str(path.stat().st_mtime_ns)
    except OSError:
        return ""


_METADATA = {
    "zarr3": "zarr.json",
    "zarr": ".zarray",
    "n5": "attributes.json",
    "neuroglancer_precomputed": "info",
}


def check_there(array: ts.TensorStore, voxels: np.ndarray[Any, Any]) -> None:
    """Raise OSError where ``voxels``, read from ``array``, may be missing because all of it has gone away meanwhile.

    A chunk that is not there counts as empty, so a disk that goes away would read as black. On a server, which would rather
    say that it is gone, only what is empty is doubted.
    """
    if array.kvstore is None:  # a file, whose end is an error of its own
        return
    spec = array.spec().to_json()
    name, store = _METADATA.get(spec["driver"]), array.kvstore
    if name is None:
        return
    if spec["kvstore"]["driver"] == "file":
        there = Path(store.path, name).exists()
    else:
        fill = 0 if array.fill_value is None else array.fill_value
        empty = bool(((voxels == fill) | (voxels != voxels)).all())  # a fill value may be NaN
        there = not empty or store.read(name).result().state == "value"
    if not there:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{store.path}{name}")


def doubt(source: str, error: Exception) -> str:
    """What a failed read of ``source`` makes one ask."""
    if os.strerror(errno.ENOSPC) in str(error):  # reading writes nothing but what it unpacks
        return f"the folder for temporary files, {tempfile.gettempdir()}, is full: set TMPDIR to a larger one"
    if is_corrupt(error):
        return "damaged or incomplete file?"
    return "is the connection gone?" if is_url(source) else "is the disk gone, or the permission?"


def first_line(error: BaseException) -> str:
    """The message of a library's error as one short line, without its source locations."""
    text = " ".join(str(error).split()) or type(error).__name__
    for more in (" [source locations=", " [tensorstore_spec=", " [http_response_body="):
        text = text.split(more, 1)[0]
    return text[:240]


Reader = Callable[[tuple[slice, ...]], "np.ndarray[Any, Any]"]


def chunked_by(
    read: Reader, shape: Sequence[int], dtype: np.dtype[Any], chunks: Sequence[int]
) -> ts.TensorStore:
    """A TensorStore whose chunks are made by ``read(slices)``; decoded chunks go through the cache pool.

    ``read`` is called from several threads at once. Whatever it raises, a reader of the store sees a ValueError, or an
    OSError of the system's.
    """

    def fill(domain: ts.IndexDomain, array: np.ndarray[Any, Any], _parameters: Any) -> None:
        try:
            array[...] = read(tuple(slice(int(i.inclusive_min), int(i.exclusive_max)) for i in domain))
            return
        except Exception as error:  # decoders raise nearly everything on damaged data
            failure = _plain(error)
        raise failure  # here, without what it came from: TensorStore pickles it with all that it holds

    return ts.virtual_chunked(
        read_function=fill,
        rank=len(shape),
        domain=ts.IndexDomain(shape=tuple(shape)),
        dtype=ts.dtype(dtype),
        chunk_layout=ts.ChunkLayout(
            chunk_shape=[max(min(c, n), 1) for c, n in zip(chunks, shape, strict=True)]
        ),
        context=context(),
    )


def _plain(error: Exception) -> ValueError | OSError:
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    if isinstance(error, ValueError):
        return ValueError(first_line(error))
    return ValueError(f"{type(error).__name__}: {first_line(error)}")


def open_array(location: Location, driver: str, **more: Any) -> ts.TensorStore:
    """The chunked array at ``location``, read-only, all axes; ``more`` goes into its TensorStore spec.

    Raises:
        Unreadable: its server does not give it.
        UserError: it is missing or damaged.
    """
    spec = {
        "driver": driver,
        "kvstore": location.spec(),
        # A local result may still be growing; asking a server again for every chunk would be slow.
        "recheck_cached_data": "open" if location.remote else True,
        **more,
    }
    try:
        return ts.open(spec, read=True, open=True, context=context()).result()
    except (ValueError, OSError) as error:
        if location.remote and not is_corrupt(error):
            raise Unreadable(
                f"{location.text} cannot be opened; check the address and the connection ({first_line(error)})"
            ) from error
        raise UserError(
            f"{location.text} cannot be opened (missing or damaged): {first_line(error)}"
        ) from error
