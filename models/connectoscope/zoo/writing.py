"""Bundles are made to one side and renamed, and removed without what else lies beside their files."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from connectoscope.errors import UserError
from connectoscope.zoo.bundle import Bundle, read_bundle
from connectoscope.zoo.card import (
    CARD,
    GATE,
    NAME,
    ONNX,
    SIGNATURE,
    WEIGHTS,
    Card,
    Companion,
    File,
    Signature,
)
from connectoscope.zoo.places import bundled_models, is_own

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def check_new(path: Path, *, replace: bool) -> None:
    """Before work begins whose result is a model at ``path``.

    Args:
        replace: A model that is there already may be replaced.

    Raises:
        UserError: something is there that may not be replaced, it would hide a bundled model, or it is called as no model
            may be.
    """
    check_name(path)
    if path.exists() and not (replace and (path / CARD).exists()):
        raise UserError(f"{path} exists; choose another name, or --overwrite where it is a model")
    if path.exists() and (others := _others(path)):
        raise UserError(
            f"{path} also holds {others[0]}, which would be lost: move it away, or choose another name"
        )


def check_name(path: Path) -> None:
    """Raises UserError where no model may be called so: it would hide a bundled one, or its name is none."""
    if is_own(path) and (bundled_models() / path.name / CARD).exists():
        raise UserError(f"a model '{path.name}' comes with connectoscope; choose another name")
    if not re.fullmatch(NAME, path.name):
        raise UserError(
            f"'{path.name}' is not a valid model name: use letters, digits, '.', '_' and '-', a letter or digit first"
        )


def _others(path: Path) -> list[str]:
    """What in a model's folder is not of the model."""
    own = {CARD, WEIGHTS, GATE, SIGNATURE, ONNX}
    with contextlib.suppress(UserError):  # a damaged card may be replaced, too
        own |= {file.name for file in read_bundle(path).card.files}
    return sorted(place.name for place in path.iterdir() if place.name not in own)


def write_bundle(path: Path, card: Card, tensors: dict[str, Tensor]) -> Bundle:
    """Make a bundle: float16 weights, then the card with their checksum; to one side first, then renamed.

    Raises:
        UserError: when ``path`` exists and is no bundle.
    """
    data = _half(tensors)
    card = card.model_copy(update={"files": (_file(WEIGHTS, data),)})
    return write_files(path, card, {WEIGHTS: data})


def write_companion(path: Path, parent: Bundle, companion: Companion, tensors: dict[str, Tensor]) -> Bundle:
    """Make a bundle that is ``parent``, unchanged, with a (new) companion; as :func:`write_bundle`.

    Raises:
        UserError: when ``path`` exists and is no bundle, or a file of the parent is not the one on its card.
    """
    data = _half(tensors)
    own = tuple(f for f in parent.card.files if f.name != GATE)
    files = {f.name: parent.read_file(f.name) for f in own}  # also refuses one that was replaced meanwhile
    card = parent.card.model_copy(update={"companion": companion, "files": (*own, _file(GATE, data))})
    return write_files(path, card, {**files, GATE: data})


def write_signed(
    path: Path, bundle: Bundle, signature: Signature, vectors: dict[str, NDArray[np.float16]]
) -> Bundle:
    """Make a bundle that is ``bundle``, unchanged, with a (new) signature; ``path`` may be its own.

    Raises:
        UserError: when ``path`` exists and is no bundle, or a file of the bundle is not the one on its card.
    """
    from safetensors.numpy import save

    data = save(vectors)
    own = tuple(f for f in bundle.card.files if f.name != SIGNATURE)
    files = {f.name: bundle.read_file(f.name) for f in own}
    card = bundle.card.model_copy(update={"signature": signature, "files": (*own, _file(SIGNATURE, data))})
    return write_files(path, card, {**files, SIGNATURE: data})


def remove_bundle(bundle: Bundle) -> None:
    """Delete a model: the files on its card and the card; the folder too, unless something else lies in it.

    Raises:
        UserError: it came with the program.
    """
    if bundle.path.resolve().parent == bundled_models().resolve():
        raise UserError(
            f"{bundle.path.name} came with connectoscope and stays; only your own models are removed"
        )
    folder = bundle.path.resolve()
    for name in (CARD, *(file.name for file in bundle.card.files)):  # without a card it is no model any more
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
        if bundle.path.is_symlink():
            bundle.path.unlink()


def write_files(path: Path, card: Card, files: dict[str, bytes]) -> Bundle:
    """Make a bundle of a card and the files on it; to one side first, then renamed.

    Args:
        files: May hold the card itself, as it is to be on disk.

    Raises:
        UserError: when ``path`` exists and is no bundle.
    """
    if path.exists() and not (path / CARD).exists():
        raise UserError(f"{path} exists and is not a model; choose another name")
    if path.is_symlink():  # what it leads to is replaced
        path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot make {path} ({error.strerror}); choose another place") from None
    new, old = aside / "new", aside / "old"
    try:
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if CARD not in files:
            write_card(new, card)
        if path.exists():  # a kill between these two leaves both models aside, whole
            path.replace(old)
        new.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        shutil.rmtree(aside, ignore_errors=True)
    return Bundle(path, card)


def write_card(path: Path, card: Card) -> None:
    """Replace the card of a bundle in one step."""
    part = path / (CARD + ".part")
    part.write_text(card.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    part.replace(path / CARD)


def _half(tensors: dict[str, Tensor]) -> bytes:
    """As a safetensors file, floats in float16."""
    import torch
    from safetensors.torch import save

    half = {
        k: (v.detach().to("cpu", torch.float16) if v.is_floating_point() else v).contiguous()
        for k, v in tensors.items()
    }
    return save(half)


def _file(name: str, data: bytes) -> File:
    return File(name=name, sha256=hashlib.sha256(data).hexdigest())
