"""Who sends to whom in a 3D U-Net, from its description alone: no network is traced.

A *unit* is an output channel of a convolution with its batch norm and ReLU; a *connection* is a pair (receiving channel,
sending channel), whose weights are a whole kernel. Pooling and up-sampling lie between layers and change no channel::

    encoders.0.1 ──pool── encoders.1.0          (columns 0 ... F0)
            └─────skip─── decoders.0.0          (columns F0 ... 2 F0)
    ups.0 ──────up─────── decoders.0.0          (columns 0 ... F0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from connectoscope.networks.unet3d import UNet3dArguments
from connectoscope.volumes.geometry import Index3

HEAD = "head"


@dataclass(frozen=True)
class Link:
    """Part of a layer's input: the columns ``first`` to ``first + channels`` of ``receiver`` come from ``sender``."""

    sender: str
    receiver: str
    first: int
    channels: int


@dataclass(frozen=True)
class Layer:
    """A convolution: its name in the network (``encoders.0.1``), channels out and in, voxels of its kernel.

    ``prunable``: all but the first convolution and the head, which stay dense: they hold few of the
    weights.
    """

    name: str
    outputs: int
    inputs: int
    kernel: int
    prunable: bool

    @property
    def weight(self) -> str:
        """Name of its weight in the state dict."""
        return f"{self.name}.weight" if self.name == HEAD else f"{self.name}.0.weight"


@dataclass(frozen=True)
class Wiring:
    """All layers in the order of the forward pass, and the links between them."""

    layers: tuple[Layer, ...]
    links: tuple[Link, ...]

    @property
    def prunable(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.prunable)

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def consumers(self, sender: str) -> tuple[Link, ...]:
        """Where a layer's units are read by prunable layers: its audience."""
        prunable = {layer.name for layer in self.prunable}
        return tuple(link for link in self.links if link.sender == sender and link.receiver in prunable)

    @property
    def senders(self) -> tuple[str, ...]:
        """Layers whose units have an audience among the prunable layers."""
        return tuple(layer.name for layer in self.layers if self.consumers(layer.name))


def wiring_of(arguments: UNet3dArguments) -> Wiring:
    """The wiring of :class:`~connectoscope.networks.unet3d.UNet3d` built from ``arguments``."""
    a = arguments
    stem = a.stem[0] * a.stem[1] * a.stem[2]
    layers: list[Layer] = []
    links: list[Link] = []

    def add(name: str, outputs: int, sources: list[tuple[str, int]], kernel: Index3) -> None:
        first = 0
        for sender, channels in sources:
            if sender:  # the image is no unit
                links.append(Link(sender, name, first, channels))
            first += channels
        size = kernel[0] * kernel[1] * kernel[2]
        layers.append(Layer(name, outputs, first, size, prunable=bool(layers) and name != HEAD))

    def block(prefix: str, sources: list[tuple[str, int]], kernels: Sequence[Index3]) -> tuple[str, int]:
        for index, kernel in enumerate(kernels):
            name = f"{prefix}.{index}"
            add(name, a.width(name), sources, kernel)
            sources = [(name, a.width(name))]
        return sources[0]

    last = ("", a.in_channels * stem)
    skips: list[tuple[str, int]] = []
    for level, kernels in enumerate(a.kernels):
        last = block(f"encoders.{level}", [last], kernels)
        skips.append(last)
    for level in reversed(range(len(a.features) - 1)):
        up = f"ups.{level}"
        add(up, a.width(up), [last], (1, 1, 1))
        last = block(f"decoders.{level}", [(up, a.width(up)), skips[level]], a.kernels[level])
    add(HEAD, a.outputs * stem, [last], (1, 1, 1))
    return Wiring(tuple(layers), tuple(links))
