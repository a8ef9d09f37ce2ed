"""From trained weights to a bundle: the practical halo, the thresholds, the card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from connectoscope.adaptation.signature import Part, write_signature
from connectoscope.errors import UserError
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.unet3d import UNet3d
from connectoscope.training.checkpoint import Progress
from connectoscope.training.recipe import Recipe, open_image
from connectoscope.training.sampler import LabelledVolume
from connectoscope.training.trainer import score_planes
from connectoscope.volumes.geometry import Box, Index3
from connectoscope.zoo.bundle import Bundle
from connectoscope.zoo.card import Card
from connectoscope.zoo.writing import write_bundle

PROMISE = 0.001  # share of voxels that the practical halo may change by more than 1 of 255
CORE = (
    128,
    128,
)  # rows and columns of the cores on which the promise is measured: small, so that faces are many
PLACES = 3  # of them along y and x of each volume

Network = TypeVar("Network", bound=nn.Module)


def finish(
    recipe: Recipe,
    network: UNet3d,
    volumes: list[LabelledVolume],
    progress: Progress,
    out: Path,
    device: str,
    command: str,
    warn: Callable[[str], None],
    lineage: tuple[dict[str, Any], ...] = (),
) -> Bundle:
    """Write the bundle of a finished training.

    ``command`` made it and gives its scores again; ``warn`` is told why there is no signature; ``lineage`` says what it
    was made of, where that was another model. Thresholds are the ones of the best voxel F1 on
    the choosing planes; scores on the reporting planes are added later, once, by ``recipes/score_models.py``, which runs
    the shipped file through the commands.
    """
    network = as_shipped(network)
    arguments = network.arguments
    practical = practical_halo(network, volumes, arguments.halo(), arguments.total_stride)
    curves = score_planes(network.to(device), recipe, volumes, "choose", device)
    best = {name: curve.best() for name, curve in curves.items()}
    low, high = recipe.inputs.percentiles
    card = Card.model_validate(
        {
            "schema": 1,
            "name": recipe.name,
            "version": recipe.version,
            "description": recipe.description,
            "architecture": {"name": recipe.architecture.name, "arguments": arguments.to_json()},
            "inputs": {
                "voxel_size": recipe.inputs.voxel_size,
                "normalisation": {"method": "percentile", "low": low, "high": high},
            },
            "outputs": [
                {
                    "name": o.name,
                    "meaning": o.meaning,
                    "instances": o.instances,
                    "threshold": min(max(best[o.name][1], 1), 255),
                    "min_volume_nm3": o.min_volume_nm3,
                }
                for o in recipe.outputs
            ],
            "neurons": recipe.neurons,
            "receptive_field": arguments.receptive_field(),
            "stride": arguments.total_stride,
            "halo": {"exact": arguments.halo(), "practical": practical},
            "training": {
                "recipe": recipe.model_dump(mode="json"),
                "data": [v.name for v in recipe.volumes],
                "splits": {
                    v.name: {"train": v.train, "choose": v.choose, "report": v.report} for v in recipe.volumes
                },
                "steps": progress.step,
                "chosen_step": progress.best_step,
                "seed": recipe.seed,
                "seconds": round(progress.seconds),
                "curve": progress.curve,
                "torch": torch.__version__,
            },
            "scores": [
                {
                    "metric": f"{name} average_precision",
                    "value": round(curve.average_precision, 4),
                    "data": ", ".join(v.name for v in recipe.volumes),
                    "split": "choose",
                    "command": command,
                }
                for name, curve in curves.items()
            ],
            "licence": recipe.licence,
            "data_licences": recipe.data_licences,
            "lineage": lineage,
            "files": (),
        }
    )
    return _signed(write_bundle(out, card, network.state_dict()), recipe, device, warn)


def _signed(bundle: Bundle, recipe: Recipe, device: str, warn: Callable[[str], None]) -> Bundle:
    """With the signature of the training planes; without, where volumes state no voxel size or are too small for it."""
    parts = []
    for entry in recipe.volumes:
        volume = open_image(entry)
        first, last = entry.train
        parts.append(Part(volume, Box((first, 0, 0), (last, *volume.shape[1:]))))
    try:
        return write_signature(bundle, parts, seed=recipe.seed, device=device)
    except UserError as error:
        warn(f"the new model has no signature, so 'adapt rank' cannot judge it: {error}")
        return bundle


def as_shipped(network: Network) -> Network:
    """The network with its weights rounded to the float16 that goes to disk, so that scores are of that."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float16).to(torch.float32)
    return network.cpu().eval()


def practical_halo(
    network: nn.Module, volumes: list[LabelledVolume], exact: Index3, stride: Index3
) -> Index3:
    """A halo whose truncation changes at most 0.1 % of the voxels by more than 1 of 255.

    In y and x it is one stride more than the smallest that does so on the choosing planes: places differ by a factor of
    ten, and with the smallest the promise was broken on the bundled sample.

    Args:
        network: In evaluation mode, on the CPU.
        volumes: Cores in 3 x 3 places of the choosing planes of each are measured: on planes that it learned from the
            network is so sure of itself that little changes.
        exact: The exact halo; candidates are multiples of ``stride`` up to it, first for y and x, then for z.
    """
    network = fold_batch_norm(network).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    tiles = [tile for volume in volumes for tile in _tiles(volume, exact, stride)]
    return smallest_halo(lambda tile, halo: _probability(network, tile, halo), tiles, exact, stride)


def smallest_halo(
    predict: Callable[[NDArray[np.float32], Index3], NDArray[np.int16]],
    tiles: list[NDArray[np.float32]],
    exact: Index3,
    stride: Index3,
) -> Index3:
    """As :func:`practical_halo`, measured on ``tiles`` with the exact halo; ``predict`` gives a core in 1/255."""
    wanted = [predict(tile, exact) for tile in tiles]

    def fits(halo: Index3) -> bool:
        changed = total = 0
        for tile, truth in zip(tiles, wanted, strict=True):
            cut = tuple(slice(e - h, n - (e - h)) for e, h, n in zip(exact, halo, tile.shape, strict=True))
            difference = np.abs(predict(tile[cut], halo) - truth)
            changed += int((difference > 1).sum())
            total += difference.size
        return changed <= PROMISE * total

    best = exact
    for side in range(stride[2], exact[2] + 1, stride[2]):
        candidate = (exact[0], min(side, exact[1]), side)
        if fits(candidate):
            wider = side + stride[2]
            best = (exact[0], min(wider, exact[1]), min(wider, exact[2]))
            break
    for depth in range(0, exact[0], stride[0]):
        candidate = (depth, *best[1:])
        if fits(candidate):
            return candidate
    return best


def _tiles(volume: LabelledVolume, halo: Index3, stride: Index3) -> list[NDArray[np.float32]]:
    """Tiles around cores spread evenly over the choosing planes, mirrored where the volume ends."""
    image, (first, last) = volume.image, volume.split.choose
    wanted = (last - first, *CORE)
    core = tuple(-(-min(c, n) // s) * s for c, n, s in zip(wanted, image.shape, stride, strict=True))
    shape = [c + 2 * h for c, h in zip(core, halo, strict=True)]
    padded = np.pad(image, [(s, s) for s in shape], mode="symmetric")
    shares = [(i + 0.5) / PLACES for i in range(PLACES)]
    tiles = []
    for y in shares:
        for x in shares:
            middle = [(first + last) / 2, y * image.shape[1], x * image.shape[2]]
            starts = [int(m) + s - s // 2 for m, s in zip(middle, shape, strict=True)]
            tiles.append(padded[tuple(slice(a, a + s) for a, s in zip(starts, shape, strict=True))])
    return tiles


def _probability(network: nn.Module, tile: NDArray[np.float32], halo: Index3) -> NDArray[np.int16]:
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(tile))[None, None].contiguous(
            memory_format=torch.channels_last_3d
        )
        p = network(x, halo)[0].sigmoid().numpy()
    stored: NDArray[np.int16] = np.floor(p * 255 + 0.5).astype(np.int16)
    return stored
