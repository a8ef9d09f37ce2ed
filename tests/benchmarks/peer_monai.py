"""MONAI's ``sliding_window_inference`` with a network of ours, in a process of its own (PYTHONPATH: peers.monai_folder).

``python tests/benchmarks/peer_monai.py JOB``, where JOB is JSON; it answers with a line of JSON. Two kinds of job::

    {"model": .., "rois": [[z, y, x], ..]}                                                seconds of a window
    {"model": .., "source": .., "shape": .., "range": [low, high], "roi": .., "overlap": ..,
     "mode": "gaussian", "precision": .., "ours": RESULT}                                 a run

The volume goes into memory as a tensor, since MONAI takes nothing else, and the probabilities stay there. What counts is
reading, inference and the sigmoid; not imports, nor loading the network.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
import tensorstore as ts
import torch
from monai.inferers import sliding_window_inference

from connectoscope.networks.normalise import normalise
from connectoscope.zoo import find_model


def precise(precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast as its users have it, or nothing."""
    return contextlib.nullcontext() if precision == "float32" else torch.autocast("cpu", torch.bfloat16)  # noqa: TID251


def probe(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds of a forward pass of each roi: the median of two, after one that does not count."""
    network = find_model(job["model"]).load_network()
    answers = []
    for roi, precision in itertools.product(job["rois"], job["precisions"]):
        image = torch.rand(1, 1, *roi) - 0.5
        taken = []
        with torch.inference_mode(), precise(precision):
            for _ in range(3):
                started = time.perf_counter()
                network(image)
                taken.append(time.perf_counter() - started)
        answers.append({"roi": roi, "precision": precision, "seconds": statistics.median(taken[1:])})
    return answers


def infer(job: dict[str, Any]) -> dict[str, Any]:
    """A run, and how far its probabilities are from ours (0-255, mean): it is the same network on the same voxels."""
    network = find_model(job["model"]).load_network()
    z, y, x = job["shape"]
    started = time.perf_counter()
    store = ts.open({"driver": "zarr3", "kvstore": f"file://{job['source']}/0/"}).result()
    image = torch.from_numpy(normalise(store[:z, :y, :x].read().result(), *job["range"]))[None, None]
    with torch.inference_mode(), precise(job["precision"]):
        logits = sliding_window_inference(
            image, job["roi"], 1, network, overlap=job["overlap"], mode=job["mode"]
        )
    probabilities = torch.sigmoid(logits[0].float())
    seconds = time.perf_counter() - started
    ours = ts.open({"driver": "zarr3", "kvstore": f"file://{job['ours']}/0/"}).result()
    stored = ours[:, :z, :y, :x].read().result()
    difference = np.abs(255 * probabilities.numpy() - stored).mean()
    return {"seconds": seconds, "difference": float(difference)}


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    asked = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(probe(asked) if "rois" in asked else infer(asked)) + "\n")
