"""Models from bioimage.io packages: our own come back as they were, those of others run as ONNX.

Nothing of a package is executed: of weights only ONNX is taken, an array is read without pickle, and what a package
asks for before and after the network is done by our own code or refused. A package must hold a test image and what
the network makes of it, and the model must give the same here before it is accepted.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from connectoscope.errors import UserError
from connectoscope.networks.normalise import normalise
from connectoscope.networks.onnx_network import (
    NAME,
    OnnxArguments,
    OnnxNetwork,
    as_czyx,
    measured_reach,
    stored,
)
from connectoscope.volumes.geometry import NANOMETRES, Float3, Index3
from connectoscope.zoo.bundle import Bundle, first_problem, parse_card
from connectoscope.zoo.card import CARD, ONNX, Card, Imported
from connectoscope.zoo.intensity import wanted_range
from connectoscope.zoo.package import OWN, Axis, Description, Length, Package, Source, Tensor
from connectoscope.zoo.places import reference
from connectoscope.zoo.processing import postprocessing, preprocessing
from connectoscope.zoo.writing import check_new, write_files

PROMISE = 0.001  # share of the test image that may differ by more than 1 of 255
OVER_SPACE = {
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "ReduceMean",
}
"""Operators that make a voxel depend on its whole tile."""


@dataclass(frozen=True)
class Import:
    """A model that was imported, and one line for each thing to know about it."""

    bundle: Bundle
    notes: tuple[str, ...]


def import_package(
    path: Path, folder: Path, name: str | None = None, voxel_size: Float3 | None = None
) -> Import:
    """Make a bundle of a package.

    Args:
        path: A zip or a folder.
        folder: Where the bundle is made.
        name: Of the bundle's folder; default: the card's, or the package's name in plain letters.
        voxel_size: In nm, z, y, x, where the package has none.

    Raises:
        UserError: the package is damaged or unsafe, holds nothing that can be run safely, or gives something else here.
    """
    with Package(path) as package:
        description = package.describe()
        own = _own(package, description, folder, name)
        if own is not None:
            return Import(own, ())
        return _foreign(package, description, folder, name, voxel_size)


def _own(package: Package, description: Description, folder: Path, name: str | None) -> Bundle | None:
    """The bundle that the package was made of, byte for byte; None where it was not made of one."""
    ours = description.config.get(OWN)
    if not isinstance(ours, dict) or ours.get("card") != CARD:
        return None
    sums = {a.source: a.sha256 for a in description.attachments}
    if CARD not in sums:
        return None
    data = package.read(CARD, sums[CARD])
    card = parse_card(data, package.path)
    if card.imported:  # never exported by us, so its graph is as foreign as any
        return None
    out = _destination(folder, name or card.name)
    files = {file.name: package.read(file.name, file.sha256) for file in card.files}
    return write_files(out, card, {**files, CARD: data})


def _foreign(
    package: Package, description: Description, folder: Path, name: str | None, voxel_size: Float3 | None
) -> Import:
    out = _destination(folder, name or description.name)
    source, target = _only(description.inputs, "input"), _only(description.outputs, "output")
    weights = _weights(package, description)
    if source.test_tensor is None or target.test_tensor is None:
        raise UserError(
            f"{package.path} has no test tensors, so that nothing tells whether the model runs as it should"
        )
    axes, axes_out = _letters(source), _letters(target)
    if ("z" in axes) != ("z" in axes_out):
        raise UserError(
            f"the model's input has axes {axes}, its output {axes_out}; only models that keep the image's can be imported"
        )
    expected = as_czyx(_test_tensor(package, target, target.test_tensor), axes_out)
    intensities = as_czyx(_test_tensor(package, source, source.test_tensor), axes)
    if len(intensities) != 1:
        raise UserError(
            f"the model's input has {len(intensities)} channels; only models of one channel can be imported"
        )
    wanted, before = preprocessing(source, intensities)
    least, step = _lengths(source)
    arguments = OnnxArguments(
        input_axes=axes,
        output_axes=axes_out,
        least=least,
        step=step,
        before=before,
        after=postprocessing(target),
    )
    network = OnnxNetwork(weights, arguments)
    cut = _cut(source, target, intensities.shape[1:], expected.shape[1:])
    image = _normalised(wanted, intensities[0])
    _check_reproduces(network, image, expected, cut)
    stride: Index3 = (max(step[0], 1), max(step[1], 1), max(step[2], 1))
    seams = network.operators & OVER_SPACE
    halo, known = _halo(target, network, stride, cut, image)
    notes = []
    if seams or not known:
        why = (
            f"it computes over all of a tile ({', '.join(sorted(seams))})"
            if seams
            else "its reach could not be measured"
        )
        notes.append(f"seams between tiles are possible: {why}")
    field = [2 * h + 1 for h in halo]
    if not arguments.planes:  # or it would be taken for one that sees single planes
        field[0] = max(field[0], 3)
    told = [f"{description.name}, imported.", description.description or "", *(f"Note: {n}." for n in notes)]
    names = _output_names(target, len(expected))
    facts = {
        "schema": 1,
        "name": out.name,
        "version": str(description.version or 1),
        "description": " ".join(filter(None, told)),
        "architecture": {"name": NAME, "arguments": arguments.to_json()},
        "inputs": {"voxel_size": _voxel_size(source, voxel_size), "normalisation": wanted.model_dump()},
        "outputs": [
            {"name": n, "meaning": target.description or description.name, "instances": True} for n in names
        ],
        "receptive_field": field,
        "stride": stride,
        "halo": {"exact": halo, "practical": halo},
        "licence": description.license if isinstance(description.license, str) else "see the package",
        "imported": {
            "format": description.format_version,
            "id": description.id,
            "name": description.name,
            "authors": [str(a.get("name")) for a in description.authors],
            "cite": [str(c.get("doi") or c.get("url") or c.get("text")) for c in description.cite],
            "notes": notes,
        },
        "files": [{"name": ONNX, "sha256": hashlib.sha256(weights).hexdigest()}],
    }
    try:
        card = Card.model_validate(facts)
    except ValidationError as error:
        raise UserError(f"{package.path} cannot be made a model: {first_problem(error)}") from None
    return Import(write_files(out, card, {ONNX: weights}), tuple(notes))


def _weights(package: Package, description: Description) -> bytes:
    """The ONNX file, which holds all that belongs to it and nothing unusual.

    Raises:
        UserError: there is none, or it is none.
    """
    asked = description.weights.get("onnx")
    if not isinstance(asked, dict) or not isinstance(asked.get("source"), str):
        there = ", ".join(sorted(map(str, description.weights))) or "none"
        raise UserError(
            f"{package.path} has weights as {there}; connectoscope runs no code of others and takes ONNX only "
            "(convert it: bioimageio add-weights)"
        )
    if asked.get("external_data") is not None:
        raise UserError(f"the ONNX file of {package.path} has its weights in a second file; save it as one")
    return package.read(asked["source"], asked.get("sha256") and str(asked["sha256"]))


def _only(tensors: tuple[Tensor, ...], kind: str) -> Tensor:
    if len(tensors) != 1:
        raise UserError(
            f"the model has {len(tensors)} {kind}s ({', '.join(t.id for t in tensors)}); only models of one can be imported"
        )
    return tensors[0]


def _letters(tensor: Tensor) -> str:
    letters = tensor.letters
    for axis in tensor.axes:
        if axis.letter not in {"b", "c", "z", "y", "x"}:
            raise UserError(
                f"'{tensor.id}' has an axis {axis.id or axis.type}; connectoscope knows batch, channel, z, y, x"
            )
    if len(set(letters)) != len(letters) or not {"y", "x"} <= set(letters):
        raise UserError(f"'{tensor.id}' has axes {letters}; an image of y, x or z, y, x is needed")
    return letters


def _test_tensor(package: Package, tensor: Tensor, file: Source) -> NDArray[np.float32]:
    array = package.read_array(file)
    if array.ndim != len(tensor.axes):
        raise UserError(
            f"the test tensor of '{tensor.id}' has {array.ndim} axes, the package says {len(tensor.axes)}"
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not array.size or not np.isfinite(array).all():
        what = "holds values that are not numbers" if array.size else "is empty"
        raise UserError(f"the test tensor of '{tensor.id}' {what}, so that nothing can be checked with it")
    return array


def _space(tensor: Tensor) -> dict[str, Axis]:
    return {axis.letter: axis for axis in tensor.axes if axis.type == "space"}


def _lengths(source: Tensor) -> tuple[Index3, Index3]:
    """Smallest input and step, z, y, x; a step of 0 where the length is fixed, and along a z that is not there."""
    lengths = []
    for axis in (_space(source).get(letter) for letter in "zyx"):
        size = 1 if axis is None else axis.size
        if isinstance(size, Length) and size.min and size.step:
            lengths.append((size.min, size.step))
        elif isinstance(size, int):
            lengths.append((size, 0))
        else:
            raise UserError(
                f"the package does not say by itself how long the axis {axis and axis.id} of its input is"
            )
    (z, dz), (y, dy), (x, dx) = lengths
    return (z, y, x), (dz, dy, dx)


def _cut(source: Tensor, target: Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> Index3:
    """Voxels at each side, z, y, x, that the network itself leaves out.

    Raises:
        UserError: the output is not on the voxels of the input.
    """
    cut = []
    for letter, n, m in zip("zyx", before, after, strict=True):
        one, other = _space(source).get(letter), _space(target).get(letter)
        size = other.size if other is not None else None
        same = one is None or other is None or math.isclose(one.scale, other.scale, rel_tol=1e-6)
        said = n == m or (isinstance(size, Length) and size.tensor_id == source.id and size.offset == m - n)
        if not same or not said or n < m or (n - m) % 2:
            raise UserError(
                f"the model's output has other voxels along {letter} than its input ({m} of {n}); only models that keep "
                "them can be imported"
            )
        cut.append((n - m) // 2)
    return (cut[0], cut[1], cut[2])


def _normalised(wanted: Imported, image: NDArray[np.float32]) -> NDArray[np.float32]:
    shape = (image.shape[0], image.shape[1], image.shape[2])
    return normalise(image, *wanted_range(wanted, lambda box: image[box.slices], shape))


def _check_reproduces(
    network: OnnxNetwork,
    image: NDArray[np.float32],
    expected: NDArray[np.float32],
    cut: Index3,
) -> None:
    """Raises UserError unless the network gives here what the package says that it gives."""
    if not (expected.min() > -0.01 and expected.max() < 1.01):
        raise UserError(
            f"the model gives values from {expected.min():.3g} to {expected.max():.3g}; only probabilities, 0 to 1, can be "
            "imported (a sigmoid or softmax may stand in the package's postprocessing)"
        )
    found = network(image, cut)
    if found.shape != expected.shape:
        raise UserError(f"on its test image the model gives {found.shape}, the package says {expected.shape}")
    share = float((np.abs(stored(found).astype(int) - stored(expected)) > 1).mean())
    if share > PROMISE:
        raise UserError(
            f"on its test image the model gives something else here than the package says: {100 * share:.3g} % of the "
            "voxels differ by more than 1 of 255"
        )


def _halo(
    target: Tensor, network: OnnxNetwork, stride: Index3, cut: Index3, image: NDArray[np.float32]
) -> tuple[Index3, bool]:
    """Voxels at each side that are computed and thrown away, and whether that is known to be enough.

    As the package says, else as far as the network is seen to reach.
    """
    axes = _space(target)
    said = [axes[letter].halo if letter in axes else 0 for letter in "zyx"]
    told = tuple(a + b for a, b in zip(said, cut, strict=True))
    reach: tuple[int, ...] | None = told if any(told) else measured_reach(network, stride, image)
    known = reach is not None
    if reach is None:
        reach = tuple(n // 4 for n in network.arguments.window((64, 256, 256)))
    z, y, x = (-(-r // s) * s for r, s in zip(reach, stride, strict=True))
    return (z, y, x), known


def _output_names(target: Tensor, count: int) -> list[str]:
    """Plain ones, since folders and files are named by them; each once."""
    given = next((a.channel_names for a in target.axes if a.letter == "c"), ())
    if len(given) != count:
        given = (target.id,) if count == 1 else tuple(f"{target.id}-{i}" for i in range(count))
    names: list[str] = []
    for i, name in enumerate(given):
        plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-") or f"output-{i}"
        names.append(f"{plain}-{i}" if plain in names else plain)
    return names


def _voxel_size(source: Tensor, given: Float3 | None) -> Float3:
    """In nm, z, y, x: as asked for, else as the package says. Of single planes z is the pixel's size; it does not matter."""
    if given is not None:
        return given
    axes = _space(source)
    sizes = []
    for letter in "zyx":
        axis = axes.get(letter, axes["y"])
        if axis.unit not in NANOMETRES:
            raise UserError(
                "the package states no voxel size; give the one that the model was made for: --voxel-size 40,4,4nm (z, y, x)"
            )
        sizes.append(axis.scale * NANOMETRES[axis.unit])
    return (sizes[0], sizes[1], sizes[2])


def _destination(folder: Path, name: str) -> Path:
    """Where the bundle is made.

    Raises:
        UserError: the name is none, belongs to another model, or nothing can be written there.
    """
    out = folder / _plain(name)
    if (out / CARD).exists():
        raise UserError(
            f"{out} exists; choose another name, or remove it first: connectoscope models remove "
            + shlex.quote(reference(out))
        )
    check_new(out, replace=False)
    return out


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
    if not plain:
        raise UserError(
            f"'{name}' cannot be made a valid model name; give one: connectoscope models import FILE NAME"
        )
    return plain[:64]
