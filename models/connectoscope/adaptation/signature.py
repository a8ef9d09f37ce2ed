"""What a model was trained on, kept as feature vectors beside its weights, so that no source image is needed later.

Two spaces: the model's ``own`` network at its own voxel size, and the ``common`` network that all models share, in which
models can be compared with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from connectoscope.adaptation.features import VECTORS, embed, patch_shape, sample_patches, sees
from connectoscope.errors import UserError
from connectoscope.volumes import Volume
from connectoscope.volumes.geometry import Box
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.card import Signature, Space
from connectoscope.zoo.writing import write_signed

COMMON = "features-em"


@dataclass(frozen=True)
class Part:
    """A box (voxels of ``level``; None: all) of a volume that a model was trained on."""

    volume: Volume
    box: Box | None = None
    level: int = 0


def common_network() -> Bundle | None:
    """The model whose features are the common space; None where it is not installed."""
    try:
        return find_model(COMMON)
    except UserError:
        return None


def vectors_of(
    bundle: Bundle, parts: Sequence[Part], count: int, seed: int, device: str
) -> NDArray[np.float16]:
    """Features by ``bundle``'s network of patches of ``parts``, (n, features) float16.

    They are ordered by their place along their part, so that the first and the second half are different places.
    """
    network = bundle.load_network()
    rows, places = [], []
    for index, part in enumerate(parts):
        grid = sees(bundle.card, part.volume)
        box = None if part.box is None else grid.box_from_level(part.box, part.level)
        patches = sample_patches(grid, bundle.card, -(-count // len(parts)), seed + index, box)
        rows.append(embed(network, patches, device))
        places.append(np.arange(len(patches)) / len(patches))
    order = np.argsort(np.concatenate(places), kind="stable")
    vectors: NDArray[np.float16] = np.concatenate(rows)[order].astype(np.float16)
    return vectors


def write_signature(
    bundle: Bundle,
    parts: Sequence[Part],
    out: Path | None = None,
    *,
    count: int = VECTORS,
    seed: int = 0,
    device: str = "cpu",
) -> Bundle:
    """Give a bundle the signature of what it was trained on; its hash stays.

    The common space is left out where its network is not installed.

    Args:
        parts: The training data, at least one.
        out: Where the signed bundle goes; None: in the place of ``bundle``.
        count: Vectors in each space, over all parts.

    Raises:
        UserError: a volume is too small, shows no tissue, or its voxel size is unknown or unsuitable.
    """
    common = bundle if bundle.card.name == COMMON else common_network()
    vectors = {"own": vectors_of(bundle, parts, count, seed, device)}
    if common is not None:
        same = common.hash == bundle.hash
        vectors["common"] = vectors["own"].copy() if same else vectors_of(common, parts, count, seed, device)
    signature = Signature(
        own=_space(bundle, vectors["own"]),
        common=None if common is None else _space(common, vectors["common"]),
        data=tuple(part.volume.name for part in parts),
        seed=seed,
    )
    return write_signed(bundle.path if out is None else out, bundle, signature, vectors)


def _space(bundle: Bundle, vectors: NDArray[np.float16]) -> Space:
    return Space(
        network=bundle.card.name, hash=bundle.hash, patch=patch_shape(bundle.card), vectors=len(vectors)
    )
