"""A model for other programs: ONNX (https://onnx.ai), which runs without torch and without us."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from pathlib import Path

import torch

from connectoscope.errors import UserError
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.zoo.bundle import Bundle


def onnx_bytes(bundle: Bundle) -> bytes:
    """The network of a bundle as an ONNX file, batch norm folded, float32.

    Its input ``image`` is (1, 1, z, y, x), intensities normalised as the card says, each side a multiple of the card's
    stride; its output ``probabilities`` is (1, outputs, z, y, x), 0 to 1, outputs in the order of the card.

    Raises:
        UserError: the package onnx is missing.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UserError("export to ONNX needs one more package: pip install 'connectoscope[onnx]'")
    network = torch.nn.Sequential(fold_batch_norm(bundle.load_network()), torch.nn.Sigmoid()).eval()
    example = torch.zeros(1, 1, *(2 * s for s in bundle.card.stride))
    sides = {2: "z", 3: "y", 4: "x"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        file = Path(folder, "network.onnx")
        # The exporter that traces is old, but the new one needs packages that nothing else here does.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding")  # of the padding: not folded, and right
        torch.onnx.export(
            network,
            (example,),
            file,
            dynamo=False,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_axes={"image": sides, "probabilities": sides},
        )
        return file.read_bytes()
