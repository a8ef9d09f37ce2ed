"""A reconstruction as layers: EM, over it its uncertainty in colour, over that a cover for what is not trusted.

The total standard deviation, √(aleatoric² + epistemic²), is computed of what is displayed. The cover is that same array
with contrast limits at the threshold, so that moving it reads and copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.utils import Colormap

from connectoscope.segmentation.trust import trusted_sd
from connectoscope.volumes import open_volume, read_marks
from napari_connectoscope.layers import LayerData, layer_data, place_of, volume_facts
from napari_connectoscope.lazy import LivePyramid

TITLES = {
    "em": "EM",
    "total": "Uncertainty",
    "aleatoric": "Left open by the scan",
    "epistemic": "Unknown to the model",
    "cover": "Not trusted",
}
"""Layers of a reconstruction, from below, by their part, which stands in the note on the layer as ``part``."""

SHADES = (  # red, green, blue, opacity, evenly spaced: what is usual stays nearly clear, EM is seen through all
    (1.0, 0.9, 0.3, 0.0),
    (1.0, 0.85, 0.25, 0.05),
    (1.0, 0.75, 0.15, 0.22),
    (0.95, 0.4, 0.1, 0.5),
    (0.8, 0.0, 0.4, 0.8),
)
COVER = (0.16, 0.34, 0.52)  # blue: no intensity of EM looks like it
STEP = 1e-4  # sd from which to which the cover sets in


class TotalSd(LivePyramid):
    """√(a² + b²) of two pyramids of standard deviations."""

    def __init__(self, aleatoric: LivePyramid, epistemic: LivePyramid) -> None:
        super().__init__(aleatoric.levels, live=aleatoric.live)
        self._other = epistemic

    def read(self, level: int, index: tuple[range | int, ...]) -> np.ndarray[Any, Any]:
        self._other.live = self.live
        both = (super().read(level, index), self._other.read(level, index))
        return np.hypot(*(sd.astype(np.float32) for sd in both))


def reconstruction_layers(path: str) -> tuple[list[LayerData], list[LivePyramid]]:
    """The layers of :data:`TITLES`, and the pyramids behind them."""
    marks = read_marks(path)
    volumes = {name: open_volume(path, channel=name) for name in ("em", "aleatoric_sd", "epistemic_sd")}
    live = marks.get("finished") is False
    em, aleatoric, epistemic = (layer_data(volume, live=live)[1] for volume in volumes.values())
    total = TotalSd(aleatoric, epistemic)
    colours = {"contrast_limits": (0.0, scale_end(marks)), "colormap": Colormap(SHADES, name="uncertainty")}
    hidden = {**colours, "visible": False}
    cover = Colormap(((*COVER, 0.0), (*COVER, 1.0)), name="not trusted")
    parts: dict[str, tuple[LivePyramid, str, dict[str, Any]]] = {
        "em": (em, "em", {"colormap": "gray", "contrast_limits": (0.0, 1.0)}),
        "total": (total, "em", colours),
        "aleatoric": (aleatoric, "aleatoric_sd", hidden),
        "epistemic": (epistemic, "epistemic_sd", hidden),
        "cover": (total, "em", {"colormap": cover, "contrast_limits": (1.0, 1 + STEP), "visible": False}),
    }
    layers: list[LayerData] = []
    for part, (pyramid, channel, look) in parts.items():
        arrays = pyramid.arrays()
        facts = volume_facts(volumes[channel], result=path, channel_name=channel, part=part)
        if pyramid is total:
            facts["source"] = None  # no channel of the file
        options = {
            "name": TITLES[part],
            "multiscale": len(arrays) > 1,
            "rgb": False,
            "metadata": {"connectoscope": facts},
            **place_of(volumes[channel]),
            **look,
        }
        layers.append((arrays if len(arrays) > 1 else arrays[0], options, "image"))
    return layers, [pyramid for pyramid, _, _ in parts.values()]


def scale_end(marks: Mapping[str, Any]) -> float:
    """Where the colours end: a round number a little above :func:`trusted_sd`."""
    return min(1.0, math.ceil(trusted_sd(marks) / 0.04 + 0.25) * 0.04)


def reliability_plot(marks: Mapping[str, Any]) -> dict[str, Any]:
    """Nominal against observed coverage, from the model's card, as a ``plot`` event."""
    told = marks["calibration"]["reliability"]
    pairs = zip((0.0, *told["nominal"], 1.0), (0.0, *told["observed"], 1.0), strict=True)
    return {
        "name": "Reliability on simulated scans",
        "x": "share of true intensities that should lie in the interval",
        "y": "share that does",
        "series": {"perfect": [(0.0, 0.0), (1.0, 1.0)], marks["model"]["name"]: list(pairs)},
    }
