"""A model as a bioimage.io package (specification 0.5, https://bioimage.io), for other programs and for ourselves.

Others find the network as ONNX, how to normalise, and an image with what the network makes of it; the files of the
bundle lie beside them, so that :func:`connectoscope.zoo.imports.import_package` gives the same bundle again.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy import ndimage

from connectoscope.errors import UserError
from connectoscope.networks.normalise import intensity_range, normalise
from connectoscope.volumes.geometry import Index3, sizes_text
from connectoscope.zoo.bundle import Bundle
from connectoscope.zoo.card import CARD
from connectoscope.zoo.export import onnx_bytes
from connectoscope.zoo.package import OWN
from connectoscope.zoo.places import bundled_models

if TYPE_CHECKING:
    from connectoscope.zoo.card import Card, Normalisation

FORMAT = "0.5.4"
IMAGE, PROBABILITIES = "image", "probabilities"  # the tensors
MADE = "Connectoscope contributors"  # the bundled models
EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files: the same model, the same package
CITED = {
    "text": "Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger 2016: 3D U-Net, learning dense volumetric segmentation from "
    "sparse annotation",
    "doi": "10.1007/978-3-319-46723-8_49",
}


def package_bytes(bundle: Bundle, authors: tuple[str, ...] = ()) -> bytes:
    """The package as a zip: ``rdf.yaml``, ``model.onnx``, test tensors, ``README.md`` and the files of the bundle.

    Args:
        authors: Who made the model; may be left out for a bundled one.

    Raises:
        UserError: nobody is named, the package onnx is missing, or the model is one that reconstructs or was imported.
    """
    if not authors and bundle.path.resolve().parent == bundled_models().resolve():
        authors = (MADE,)
    if not authors:
        raise UserError("the format needs to know who made the model: --author NAME (repeat for several)")
    weights = onnx_bytes(bundle)
    image, probabilities = sample_tensors(bundle)
    files = {
        "model.onnx": weights,
        "test_input.npy": _npy(image),
        "test_output.npy": _npy(probabilities),
        "README.md": readme(bundle.card).encode(),
        CARD: (bundle.path / CARD).read_bytes(),
        **{file.name: bundle.read_file(file.name) for file in bundle.card.files},
    }
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    description = describe(bundle.card, authors, sums, _opset(weights))
    files = {"rdf.yaml": yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode(), **files}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        for name, data in files.items():
            package.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def least_tile(card: Card) -> Index3:
    """The smallest input of which something is left without the halo."""
    z, y, x = (2 * h + s for h, s in zip(card.halo.practical, card.stride, strict=True))
    return (z, y, x)


def sample_tensors(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An image (1, 1, z, y, x), blobs drawn at random, and its probabilities (1, outputs, z, y, x).

    Of no specimen, so that no licence of data is on it.
    """
    shape = least_tile(bundle.card)
    noise = np.random.default_rng(0).normal(size=shape)
    blobs = ndimage.gaussian_filter(noise, [0.5 if n < 16 else 2 for n in shape])
    image = np.round(127 + 40 * blobs / blobs.std()).clip(0, 255).astype(np.float32)
    wanted = bundle.card.inputs.normalisation
    low, high = intensity_range(lambda box: image[box.slices], shape, wanted.low, wanted.high)
    with torch.inference_mode():
        p = bundle.load_network()(torch.from_numpy(normalise(image, low, high))[None, None]).sigmoid().numpy()
    return image[None, None], p


def describe(card: Card, authors: tuple[str, ...], sums: dict[str, str], opset: int) -> dict[str, Any]:
    """What stands in ``rdf.yaml``. ``sums`` are the sha256 of the package's files, ``opset`` is of the ONNX file."""

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sums[name]}

    def space(k: int) -> dict[str, Any]:
        return {"type": "space", "id": "zyx"[k], "unit": "nanometer", "scale": card.inputs.voxel_size[k]}

    batch = {"type": "batch", "size": 1}
    least, stride, halo = least_tile(card), card.stride, card.halo.practical
    image = [{**space(k), "size": {"min": least[k], "step": stride[k]}} for k in range(3)]
    probabilities = [
        {
            **space(k),
            "size": {"tensor_id": IMAGE, "axis_id": "zyx"[k], "offset": 0},
            **({"halo": halo[k]} if halo[k] else {}),
        }
        for k in range(3)
    ]
    return {
        "format_version": FORMAT,
        "type": "model",
        "name": re.sub(r"[^A-Za-z0-9_+() -]", "-", f"connectoscope {card.name}")[:128],
        "description": card.description[:1024],
        "version": card.version,
        "authors": [{"name": name} for name in authors],
        "cite": [CITED],
        "license": card.licence,
        "tags": [
            "3d",
            "electron-microscopy",
            "segmentation",
            "unet3d",
            *(o.name.lower() for o in card.outputs),
        ],
        "documentation": file("README.md"),
        "inputs": [
            {
                "id": IMAGE,
                "description": "intensities as they are",
                "axes": [batch, {"type": "channel", "channel_names": ["intensity"]}, *image],
                "data": {"type": "float32"},
                "test_tensor": file("test_input.npy"),
                "preprocessing": preprocessing(card.inputs.normalisation),  # type: ignore[arg-type]
            }
        ],
        "outputs": [
            {
                "id": PROBABILITIES,
                "description": "of each voxel, 0 to 1",
                "axes": [
                    batch,
                    {"type": "channel", "channel_names": [o.name for o in card.outputs]},
                    *probabilities,
                ],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": file("test_output.npy"),
            }
        ],
        "weights": {"onnx": {**file("model.onnx"), "opset_version": opset}},
        "attachments": [file(name) for name in (CARD, *(f.name for f in card.files))],
        "config": {OWN: {"card": CARD, "schema": card.schema_}},
    }


def preprocessing(wanted: Normalisation) -> list[dict[str, Any]]:
    """Our normalisation in the words of the specification, the same up to its eps (one millionth of an intensity)."""
    return [
        {
            "id": "scale_range",
            "kwargs": {
                "axes": ["channel", "z", "y", "x"],
                "min_percentile": wanted.low,
                "max_percentile": wanted.high,
                "eps": 1e-6,
            },
        },
        {"id": "scale_linear", "kwargs": {"gain": 1.0, "offset": -0.5}},
        {"id": "clip", "kwargs": {"min": -1.0, "max": 1.0}},
    ]


def readme(card: Card) -> str:
    """For people who find the package."""
    voxel = sizes_text(card.inputs.voxel_size)
    wanted, exact, practical = card.inputs.normalisation, card.halo.exact, card.halo.practical
    outputs = [
        f"| {i} | {o.name} | {o.meaning} | {o.threshold} | {o.min_volume_nm3:g} |"
        for i, o in enumerate(card.outputs)
    ]
    scores = [f"| {s.metric} | {s.value:g} | {s.data}, {s.split} |" for s in card.scores]
    lines = [
        f"# {card.name} {card.version}",
        card.description,
        f"A network of [Connectoscope](https://pypi.org/project/connectoscope), for voxels of {voxel} nm (z, y, x).",
        "## Outputs",
        "| channel | name | meaning | threshold (of 255) | smallest object (nm³) |\n|---|---|---|---|---|\n"
        + "\n".join(outputs),
        "## What to mind",
        f"- Intensities: percentiles {wanted.low:g} and {wanted.high:g} become -0.5 and 0.5, clipped to -1 and 1. They "
        "are those of the whole volume (a sample of it, where it is large); a program that takes them of each tile "
        "will see seams, and other values than Connectoscope gives.\n"
        f"- Halo: {practical[0]}, {practical[1]}, {practical[2]} voxels change at most 0.1 % of the voxels by more than "
        f"1 of 255; for {exact[0]}, {exact[1]}, {exact[2]} nothing changes. Borders of the volume are mirrored.\n"
        "- Objects: connected components (26 neighbours) from the threshold on; this is not in the package.\n"
        "- The test image is made of noise, of no specimen; it tells whether the network runs as it should, not how good it is.",
        "## Validation",
        "| measure | value | data |\n|---|---|---|\n" + "\n".join(scores)
        if scores
        else "No scores are stated.",
        "## Data it was trained on",
        "\n".join(f"- {text}" for text in card.data_licences) or "Not stated.",
        "## In Connectoscope",
        "`connectoscope models import FILE.zip` gives back the very model: weights, card and companions.",
    ]
    return "\n\n".join(lines) + "\n"


def _npy(array: NDArray[np.float32]) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _opset(weights: bytes) -> int:
    import onnx

    return int(onnx.load_from_string(weights).opset_import[0].version)
