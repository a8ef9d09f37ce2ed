"""Model bundles: a folder with ``card.json`` and ``weights.safetensors``. Loading one runs no code from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from connectoscope.errors import UserError
from connectoscope.paths import exists
from connectoscope.zoo.card import CARD, GATE, ONNX, SIGNATURE, WEIGHTS, Architecture, Card
from connectoscope.zoo.places import bundled_models, named_model, reference, user_models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from connectoscope.networks.onnx_network import OnnxPredictor
    from connectoscope.networks.predictor import Predictor
    from connectoscope.networks.unet3d import UNet3d
    from connectoscope.volumes.geometry import Index3

IMPORTED_VALUES = 128  # per voxel, as of a U-Net with 32 features at the finest level


@dataclass(frozen=True)
class Bundle:
    """A model on disk; its weights are read when asked for."""

    path: Path
    card: Card

    @cached_property
    def hash(self) -> str:
        """sha256 over what decides the results: architecture, inputs, and the weights' own sha256."""
        facts = [
            self.card.architecture.model_dump(),
            self.card.inputs.model_dump(),
            [o.name for o in self.card.outputs],
            [f.model_dump() for f in self.card.files if f.name not in (GATE, SIGNATURE)],
        ]
        return _digest(facts)

    @property
    def parent(self) -> str | None:
        """Name of the model that it was made of; None: of none, or of several."""
        parent = self.card.lineage[-1].get("parent") if self.card.lineage else None
        return str(parent["name"]) if isinstance(parent, dict) and "name" in parent else None

    @property
    def reference(self) -> str:
        """What a user calls it by: its bare name among their own models, else its path."""
        return reference(self.path)

    @cached_property
    def gate_hash(self) -> str | None:
        """sha256 over what decides the scores of the companion; None without one. It is no part of :attr:`hash`."""
        companion = self.card.companion
        if companion is None:
            return None
        scores = companion.model_dump(include={"architecture", "factor", "outputs", "halo"})
        return _digest([scores, self.card.inputs.model_dump(), self._checksum(GATE)])

    def load_network(self) -> UNet3d:
        """The network with its weights, float32, in evaluation mode.

        Raises:
            UserError: when the weights are missing, damaged or of another architecture.
        """
        return self._load(WEIGHTS, self.card.architecture)

    def load_gate(self) -> UNet3d:
        """The network of the companion, as :meth:`load_network`.

        Raises:
            UserError: also when the bundle has no companion.
        """
        if self.card.companion is None:
            raise UserError(
                f"model '{self.path.name}' has no companion; make one with 'connectoscope train-gate'"
            )
        return self._load(GATE, self.card.companion.architecture)

    def load_signature(self) -> dict[str, NDArray[np.float16]]:
        """Feature vectors of the training data, ``(vectors, features)`` float16, by space: ``own``, ``common``.

        Raises:
            UserError: when the bundle has none, or the file is missing or damaged.
        """
        from safetensors.numpy import load

        if self.card.signature is None:
            raise UserError(
                f"model '{self.path.name}' has no signature of its training data; "
                f"make one: connectoscope adapt sign {self.reference} OUT --on SRC"
            )
        return load(self.read_file(SIGNATURE))

    def _load(self, file: str, architecture: Architecture) -> UNet3d:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        from connectoscope.networks.registry import build_network

        network = build_network(architecture.name, architecture.arguments)
        data = self.read_file(file)
        try:
            network.load_state_dict(
                {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in load(data).items()}
            )
        except (SafetensorError, RuntimeError):
            raise UserError(
                f"{self._named(file)} do not fit the architecture on its card; {self._again}"
            ) from None
        return network.eval()

    def read_file(self, file: str) -> bytes:
        """The bytes of a file of the bundle.

        Raises:
            UserError: when it is missing, or not the one on the card.
        """
        try:
            data = (self.path / file).read_bytes()
        except OSError as error:
            raise UserError(f"{self._named(file)} cannot be read ({error.strerror}); {self._again}") from None
        if self._checksum(file) != hashlib.sha256(data).hexdigest():
            raise UserError(
                f"{self._named(file)} are damaged (their checksum is not the card's); {self._again}"
            )
        return data

    def _named(self, file: str) -> str:
        return f"{Path(file).stem} of {self.path}"

    @property
    def _again(self) -> str:
        return f"get the model '{self.path.name}' again"

    def _checksum(self, file: str) -> str | None:
        return {f.name: f.sha256 for f in self.card.files}.get(file)

    def tile_voxels(self) -> int:
        """Size of a default tile: the narrower the network, the larger, in the same memory."""
        from connectoscope.networks.predictor import TILE_VALUES, default_tile
        from connectoscope.networks.registry import parse_architecture

        if self.card.imported:  # nothing is known of its width, so as if it was a wide one
            return TILE_VALUES // IMPORTED_VALUES
        architecture = self.card.architecture
        arguments = parse_architecture(architecture.name, architecture.arguments)
        return default_tile(arguments.values_per_voxel)

    def halo(self, exact: bool) -> Index3:
        return self.card.halo.exact if exact else self.card.halo.practical

    def predictor(
        self,
        *,
        tile: Index3,
        exact: bool = False,
        device: str = "cpu",
        precision: str = "float32",
        threads: int | None = None,
    ) -> Predictor | OnnxPredictor:
        """Ready to run on tiles of that shape; see :func:`connectoscope.networks.predictor.make_predictor`.

        An imported network computes in float32.
        """
        outputs = tuple(o.name for o in self.card.outputs)
        if self.card.imported:
            from connectoscope.networks.onnx_network import OnnxArguments, OnnxNetwork, OnnxPredictor

            arguments = OnnxArguments.parse(self.card.architecture.arguments)
            graph = OnnxNetwork(self.read_file(ONNX), arguments, device=device, threads=threads)
            return OnnxPredictor(graph, tile, self.halo(exact), outputs)
        from connectoscope.networks.predictor import make_predictor

        return make_predictor(
            self.load_network(),
            outputs,
            tile=tile,
            halo=self.halo(exact),
            stride=self.card.stride,
            device=device,
            precision=precision,
            threads=threads,
        )


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        UserError: when there is none, or its card is damaged or of a schema from the future.
    """
    try:
        data = (path / CARD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not a model: it has no {CARD}") from None
    except OSError as error:
        raise UserError(f"the card of model {path} cannot be read ({error}); get the model again") from None
    return Bundle(path, parse_card(data, path))


def parse_card(data: bytes, path: Path) -> Card:
    """The card of the model at ``path``.

    Raises:
        UserError: it is damaged or of a schema from the future.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"the card of model {path} cannot be read ({error}); get the model again") from None
    if values.get("schema") != 1:
        raise UserError(
            f"the card of model {path} has schema {values.get('schema')!r}, this program reads 1; update connectoscope"
        )
    try:
        return Card(**values)
    except ValidationError as error:
        raise UserError(
            f"the card of model {path} is damaged: {first_problem(error)}; get the model again"
        ) from None


def first_problem(error: ValidationError) -> str:
    """``where: what`` of the first of them."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    what = first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def list_models() -> list[Bundle]:
    """The user's models and the bundled ones, by name, each followed by those that were made of it.

    A user's model hides a bundled one of the same name.

    Folders that hold a damaged card are left out here and named when they are asked for.
    """
    found: dict[str, Bundle] = {}
    for folder in (bundled_models(), user_models()):
        for card in sorted(folder.glob(f"*/{CARD}")):
            try:
                found[card.parent.name] = read_bundle(card.parent)
            except UserError:
                continue

    def line(name: str) -> tuple[str, ...]:
        """From its first ancestor that is there to itself."""
        names = [name]
        while (parent := found[names[0]].parent) in found and parent not in names:
            names.insert(0, str(parent))
        return tuple(names)

    return [found[name] for name in sorted(found, key=line)]


def find_model(name: str | Path) -> Bundle:
    """A model by name (a bare one, as text) among the user's, then the bundled ones, else by path.

    Raises:
        UserError: when it is unknown (the names that there are, are listed) or damaged.
    """
    path = (named_model(name) if isinstance(name, str) else None) or Path(name)
    if exists(path / CARD):
        return read_bundle(path)
    names = ", ".join(b.path.name for b in list_models()) or "none"
    raise UserError(f"there is no model '{name}'; known: {names} (or give a folder with a {CARD})")


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
