"""A reconstructing network made ready to run on tiles, as :mod:`connectoscope.networks.predictor` does it for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from connectoscope.errors import UserError
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.precision import PRECISIONS
from connectoscope.networks.upscaling import Upscaling, UpscalingArguments, combined
from connectoscope.volumes.geometry import Index3

if TYPE_CHECKING:
    from connectoscope.zoo import Bundle

OUTPUTS = ("em", "aleatoric_sd", "epistemic_sd")


def arguments_of(bundle: Bundle) -> UpscalingArguments:
    """How its network is built.

    Raises:
        UserError: it does not reconstruct, or has never been calibrated.
    """
    card = bundle.card
    if not card.reconstructs:
        raise UserError(
            f"model '{card.name}' does not make EM from X-ray; use 'segment' with it, or choose another model"
        )
    if card.calibration is None:
        raise UserError(
            f"model '{card.name}' has no calibration on its card; train it with 'connectoscope train'"
        )
    return UpscalingArguments.parse(card.architecture.name, card.architecture.arguments)


def load_network(bundle: Bundle) -> Upscaling:
    """The network with its weights, float32, in evaluation mode.

    Raises:
        UserError: when the weights are missing, damaged or of another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    network = Upscaling(arguments_of(bundle))
    try:
        tensors = load(bundle.read_file("weights.safetensors"))
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (SafetensorError, RuntimeError):
        raise UserError(
            f"weights of {bundle.path} do not fit the architecture on its card; get the model '{bundle.card.name}' again"
        ) from None
    return network.eval()


@dataclass
class Reconstructor:
    """EM and its uncertainty of one tile; all members in one pass.

    Attributes:
        network: Folded, in evaluation mode, on its device.
        tile: Input shape z, y, x; ``halo`` of it is cut off at each side of the output.
        sd: Factor of both standard deviations, by which they are calibrated.
    """

    network: nn.Module
    tile: Index3
    halo: Index3
    sd: float
    device: str
    precision: str
    outputs: tuple[str, ...] = OUTPUTS

    def __call__(self, tile: NDArray[np.float32]) -> NDArray[np.float16]:
        """Mean, aleatoric and epistemic standard deviation ``(3, *scale * core)``, of a normalised ``(*tile)``.

        Raises:
            ValueError: when the input has another shape than every tile of this run.
        """
        if tile.shape != self.tile:
            raise ValueError(f"takes tiles of {self.tile}, got {tile.shape}")
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(tile))[None, None]
            x = x.to(self.device, PRECISIONS[self.precision])
            told = self.network(x.contiguous(memory_format=torch.channels_last_3d), self.halo)[:, 0]
            mean, aleatoric, epistemic = combined(told)
            both = self.sd * torch.stack((aleatoric, epistemic)).sqrt()
            return torch.cat((mean[None], both)).half().cpu().numpy()


def make_reconstructor(
    bundle: Bundle, *, tile: Index3, halo: Index3, device: str, precision: str, threads: int
) -> Reconstructor:
    """Bind a bundle's network to one tile shape.

    Args:
        threads: Of this whole process on the CPU.
    """
    torch.set_num_threads(threads)
    network = fold_batch_norm(load_network(bundle)).to(device, PRECISIONS[precision])
    network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    scale = float((bundle.card.calibration or {})["scale"])
    return Reconstructor(network, tile, halo, scale, device, precision)
