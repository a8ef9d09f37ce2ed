"""Packages for the tests: made, changed, and as others would make them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from connectoscope import cli
from connectoscope.networks.unet3d import UNet3dArguments

ARGUMENTS = UNet3dArguments(2, (2, 4), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),), smooth=(1.0, 0))
HALO = ARGUMENTS.halo()
Files = dict[str, bytes]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.run(["models", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out, err


def unzipped(path: Path) -> Files:
    with zipfile.ZipFile(path) as package:
        return {name: package.read(name) for name in package.namelist()}


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name, data in files.items():
            package.writestr(name, data)
    return path


def foreign(package: Path, change: Callable[[dict[str, Any], Files], None] | None = None) -> Path:
    """The package as if somebody else had made it."""
    files = unzipped(package)
    rdf = yaml.safe_load(files["rdf.yaml"])
    del rdf["config"], rdf["attachments"]
    kept = {n: d for n, d in files.items() if n.endswith((".onnx", ".npy", ".md"))}
    if change is not None:
        change(rdf, kept)
    return zipped(
        package.with_name("foreign.zip"), {"rdf.yaml": yaml.safe_dump(rdf, sort_keys=False).encode(), **kept}
    )


def graph(*nodes: Any, axes: int, **arrays: np.ndarray) -> bytes:
    """An ONNX file from ``image`` to ``out``, any lengths."""
    made = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None] * axes)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * axes)],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


KERNEL = np.random.default_rng(0).normal(size=(1, 1, 5, 3)) / 40


def planes(pads: list[int], **space: Any) -> tuple[dict[str, Any], Files]:
    """A package of a network of single planes: one convolution, 5 x 3, of intensities / 255, and a sigmoid after it."""
    weights = graph(helper.make_node("Conv", ["image", "k"], ["out"], pads=pads), axes=4, k=KERNEL)
    image = np.random.default_rng(2).integers(0, 255, (1, 1, 32, 32)).astype(np.float32)
    (logits,) = onnxruntime.InferenceSession(weights).run(None, {"image": image})
    cut = [n - m for n, m in zip(image.shape, logits.shape, strict=True)]
    axes = [{"type": "batch"}, {"type": "channel", "channel_names": ["a"]}]
    size = [{"type": "space", "id": i, "unit": "micrometer", "scale": 0.5, **space} for i in "yx"]
    files = {"w.onnx": weights, "in.npy": npy(image), "out.npy": npy(1 / (1 + np.exp(-logits)))}
    rdf = {
        "type": "model", "format_version": "0.5.3", "name": "Planes (of a lab)!", "license": "MIT",
        "inputs": [{"id": "raw", "axes": [*axes, *({**s, "size": {"min": 8, "step": 1}} for s in size)],
                    "test_tensor": {"source": "in.npy"}}],
        "outputs": [{"id": "p", "test_tensor": {"source": "out.npy"}, "postprocessing": [{"id": "sigmoid"}],
                     "axes": [*axes, *({**s, "size": {"tensor_id": "raw", "axis_id": s["id"], "offset": -cut[2 + i]}}
                                       for i, s in enumerate(size))]}],
        "weights": {"onnx": {"source": "w.onnx", "opset_version": 17}},
    }  # fmt: skip
    return rdf, files


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array.astype(np.float32))
    return out.getvalue()


def packed(path: Path, rdf: dict[str, Any], files: Files) -> Path:
    return zipped(path, {"rdf.yaml": yaml.safe_dump(rdf).encode(), **files})


def keys(part: Any, *path: Any) -> Any:
    for key in path:
        part = part[key]
    return part


def put(value: Any, *path: Any) -> Callable[[dict[str, Any], Files], None]:
    def change(rdf: dict[str, Any], files: Files) -> None:
        keys(rdf, *path[:-1])[path[-1]] = value

    return change
