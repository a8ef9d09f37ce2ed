"""What pruning gains in time: the same engine with the dense model and with smaller ones."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from bench_segment import SHAPE
from mirrored import make_volume
from peer_torch_pruning import channels_of_greatest_magnitude
from section import Section

from connectoscope.jobs.memory import keep_freed_memory
from connectoscope.networks.split import SideBySide, split
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import wiring_of
from connectoscope.pruning.receipt import macs, seconds_per_megavoxel
from connectoscope.training.finish import as_shipped
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.writing import write_bundle

TURNS = 2  # each network runs so often, in turn; the median counts
TILE = (8, 512, 512)


def masked(network: UNet3d, density: float) -> UNet3d:
    """The strongest connections of each layer stay, the others are 0."""
    for layer in wiring_of(network.arguments).prunable:
        weight = network.get_parameter(layer.weight)
        strength = weight.abs().mean((2, 3, 4))
        limit = strength.flatten().quantile(1 - density)
        weight.data *= (strength >= limit)[:, :, None, None, None]
    return network


def cut_by_library(network: UNet3d, wanted: float) -> UNet3d:
    """torch-pruning takes more and more channels, until the multiplications are as wanted."""
    shares = np.linspace(0.3, 0.7, 41)
    every = (channels_of_greatest_magnitude(network, float(share)) for share in shares)
    return next(small for small in every if macs(small.arguments) <= wanted)


def narrow(arguments: UNet3dArguments, wanted: float) -> UNet3d:
    """All layers narrower by the same factor, until the multiplications are as wanted; its weights do not matter here."""
    shares = np.linspace(1, 0.2, 161)
    every = [replace(arguments, features=tuple(round(s * f) for f in arguments.features)) for s in shares]
    return UNet3d(min(every, key=lambda a: abs(macs(a) - wanted))).eval()


def as_bundle(path: Path, network: UNet3d, like: Bundle, halo: tuple[int, int, int]) -> Bundle:
    """A model that finds nothing, so that all have the same labels and tables to write."""
    network.head.bias.data -= 30
    card = like.card.model_copy(deep=True)
    card.architecture.arguments.clear()
    card.architecture.arguments.update(json.loads(json.dumps(network.arguments.to_json())))
    card = card.model_copy(
        update={"companion": None, "halo": card.halo.model_copy(update={"practical": halo})}
    )
    return write_bundle(path, card, as_shipped(network).state_dict())


def work_of(network: UNet3d) -> float:
    """Multiplications per voxel, as the engine runs it."""
    made = split(network)
    parts = made.parts if isinstance(made, SideBySide) else [network]
    return sum(macs(part.arguments) for part in parts)


def measure() -> Section:
    """``connectoscope segment`` on 64 megavoxels, seconds as it reports them (start-up apart)."""
    shipped, pruned = find_model("synapse-vnc"), find_model("synapse-vnc-bb")
    small = pruned.load_network()
    torch.manual_seed(0)
    dense = UNet3d(shipped.load_network().arguments).eval()  # what its weights are does not matter here
    work = macs(small.arguments)
    halo = shipped.card.halo.practical
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "volume.ome.zarr"
        make_volume(source, SHAPE)
        networks = {
            "all channels, dense": (copy.deepcopy(dense), halo),
            "synapse-vnc, two parts side by side": (shipped.load_network(), halo),
            "masks only, a quarter of the connections": (masked(copy.deepcopy(dense), 0.25), halo),
            "synapse-vnc-bb, compacted": (small, pruned.card.halo.practical),
            "synapse-vnc-bb with the halo of synapse-vnc": (pruned.load_network(), halo),
            "torch-pruning, as many multiplications": (cut_by_library(dense, work), halo),
            "narrow from the start, as many multiplications": (
                narrow(dense.arguments, work),
                halo,
            ),
        }
        bundles = {
            title: as_bundle(folder / f"model-{i}", network, shipped, its)
            for i, (title, (network, its)) in enumerate(networks.items())
        }
        taken: dict[str, list[float]] = {title: [] for title in bundles}
        plain = {}
        for _ in range(TURNS):
            for title, bundle in bundles.items():
                out = folder / "result.ome.zarr"
                line = [sys.executable, "-m", "connectoscope", "segment", source, out, "--model", bundle.path]
                line += ["--overwrite", "--json"]
                done = subprocess.run([str(w) for w in line], check=True, stdout=subprocess.PIPE, text=True)
                taken[title].append(json.loads(done.stdout)["seconds"])
        keep_freed_memory()  # as the engine's process does
        for title, bundle in bundles.items():
            plain[title] = seconds_per_megavoxel(bundle.load_network(), TILE, "cpu")
        works = {title: work_of(bundle.load_network()) for title, bundle in bundles.items()}
        halos = {title: bundle.card.halo.practical for title, bundle in bundles.items()}
    size = math.prod(SHAPE) / 1e6
    rows = [
        [
            "network",
            "multiplications",
            "halo",
            "network, s per megavoxel",
            "engine, s per megavoxel",
            "times as fast: network",
            "engine",
        ]
    ]
    first = next(iter(bundles))
    for title in bundles:
        seconds = float(np.median(taken[title]))
        rows.append(
            [
                title,
                f"{works[title]:,.0f}",
                " × ".join(map(str, halos[title])),
                f"{plain[title]:.3f}",
                f"{seconds / size:.3f}",
                f"{plain[first] / plain[title]:.2f}",
                f"{float(np.median(taken[first])) / seconds:.2f}",
            ]
        )
    return Section(
        "Pruned beside dense",
        f"`connectoscope segment` on {size:.0f} megavoxels of mirrored sample with each network, {TURNS} runs in turn on "
        f"{os.cpu_count()} cores, the median; start-up apart. The networks are made to find nothing, so that all have the "
        f"same to write. A plain forward pass is of a tile of {TILE}. Masks alone gain nothing: what is 0 is multiplied "
        "all the same, unless it parts a network in two, which then run one after the other.",
        rows,
    )
