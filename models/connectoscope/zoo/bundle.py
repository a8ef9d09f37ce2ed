"""Model bundles: a folder with ``card.json`` and ``weights.safetensors``. Loading one runs no code from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import ValidationError

from connectoscope.errors import UserError
from connectoscope.zoo.card import NAME, Architecture, Card, Companion, File, Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from connectoscope.networks.onnx_network import OnnxPredictor
    from connectoscope.networks.predictor import Predictor
    from connectoscope.networks.unet3d import UNet3d
    from connectoscope.volumes.geometry import Index3

IMPORTED_VALUES = 128  # per voxel, as of a U-Net with 32 features at the finest level
CARD, WEIGHTS, GATE = "card.json", "weights.safetensors", "gate.safetensors"
SIGNATURE, ONNX = "signature.safetensors", "model.onnx"


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
        """Name of the model that it was made of; None: it was trained from the start."""
        return str(self.card.lineage[-1]["parent"]["name"]) if self.card.lineage else None

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


def user_models() -> Path:
    """Where the user's own models lie: ``CONNECTOSCOPE_MODELS``, by default in the user's data folder."""
    named = os.environ.get("CONNECTOSCOPE_MODELS")
    if named:
        return Path(named)
    try:
        data = Path(platformdirs.user_data_dir("connectoscope", False))
    except RuntimeError:  # a user id without a home, as containers have them
        data = Path(tempfile.gettempdir(), f"connectoscope-{os.getuid()}")
    return data / "models"


def bundled_models() -> Path:
    return Path(str(resources.files("connectoscope_resources") / "models"))


def is_own(path: Path) -> bool:
    """Whether it is a place among the user's own models."""
    return path.resolve().parent == user_models().resolve()


def reference(path: Path) -> str:
    """What a user calls the model at ``path`` by: see :attr:`Bundle.reference`."""
    if is_own(path):
        return path.name
    return f"./{path}" if path.name == str(path) else str(path)  # a bare name would be another model


def named_model(name: str) -> Path | None:
    """The folder of the user's, else of the bundled model of that name; None where there is none, or it is a path."""
    if not name or Path(name).name != name:  # "./name" and "name/" are paths
        return None
    folders = (folder / name for folder in (user_models(), bundled_models()))
    return next((folder for folder in folders if (folder / CARD).exists()), None)


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        UserError: when there is none, or its card is damaged or of a schema from the future.
    """
    try:
        data = (path / CARD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is no model: it has no {CARD}") from None
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
    if (path / CARD).exists():
        return read_bundle(path)
    names = ", ".join(b.path.name for b in list_models()) or "none"
    raise UserError(f"there is no model '{name}'; known: {names} (or give a folder with a {CARD})")


def check_new(path: Path, *, replace: bool) -> None:
    """Before work begins whose result is a model at ``path``.

    Args:
        replace: A model that is there already may be replaced.

    Raises:
        UserError: something is there that may not be replaced, it would hide a bundled model, or it is called as no model
            may be.
    """
    if is_own(path) and (bundled_models() / path.name / CARD).exists():
        raise UserError(f"a model '{path.name}' comes with connectoscope; choose another name")
    if path.exists() and not (replace and (path / CARD).exists()):
        raise UserError(f"{path} exists; choose another name, or --overwrite where it is a model")
    if not re.fullmatch(NAME, path.name):
        raise UserError(
            f"'{path.name}' is no name for a model: take letters, digits, '.', '_' and '-', a letter or digit first"
        )
    if path.exists() and (others := _others(path)):
        raise UserError(
            f"{path} also holds {others[0]}, which would be lost: move it away, or choose another name"
        )


def _others(path: Path) -> list[str]:
    """What in a model's folder is not of the model."""
    own = {CARD, WEIGHTS, GATE, SIGNATURE, ONNX}
    with contextlib.suppress(UserError):  # a damaged card may be replaced, too
        own |= {file.name for file in read_bundle(path).card.files}
    return sorted(place.name for place in path.iterdir() if place.name not in own)


def write_bundle(path: Path, card: Card, tensors: dict[str, Tensor]) -> Bundle:
    """Make a bundle: float16 weights, then the card with their checksum; to one side first, then renamed.

    Raises:
        UserError: when ``path`` exists and is no bundle.
    """
    data = _half(tensors)
    card = card.model_copy(update={"files": (_file(WEIGHTS, data),)})
    return write_files(path, card, {WEIGHTS: data})


def write_companion(path: Path, parent: Bundle, companion: Companion, tensors: dict[str, Tensor]) -> Bundle:
    """Make a bundle that is ``parent``, unchanged, with a (new) companion; as :func:`write_bundle`.

    Raises:
        UserError: when ``path`` exists and is no bundle, or a file of the parent is not the one on its card.
    """
    data = _half(tensors)
    own = tuple(f for f in parent.card.files if f.name != GATE)
    files = {f.name: parent.read_file(f.name) for f in own}  # also refuses one that was replaced meanwhile
    card = parent.card.model_copy(update={"companion": companion, "files": (*own, _file(GATE, data))})
    return write_files(path, card, {**files, GATE: data})


def write_signed(
    path: Path, bundle: Bundle, signature: Signature, vectors: dict[str, NDArray[np.float16]]
) -> Bundle:
    """Make a bundle that is ``bundle``, unchanged, with a (new) signature; ``path`` may be its own.

    Raises:
        UserError: when ``path`` exists and is no bundle, or a file of the bundle is not the one on its card.
    """
    from safetensors.numpy import save

    data = save(vectors)
    own = tuple(f for f in bundle.card.files if f.name != SIGNATURE)
    files = {f.name: bundle.read_file(f.name) for f in own}
    card = bundle.card.model_copy(update={"signature": signature, "files": (*own, _file(SIGNATURE, data))})
    return write_files(path, card, {**files, SIGNATURE: data})


def remove_bundle(bundle: Bundle) -> None:
    """Delete a model: the files on its card and the card; the folder too, unless something else lies in it.

    Raises:
        UserError: it came with the program.
    """
    if bundle.path.resolve().parent == bundled_models().resolve():
        raise UserError(
            f"{bundle.path.name} came with connectoscope and stays; only your own models are removed"
        )
    folder = bundle.path.resolve()
    for name in (CARD, *(file.name for file in bundle.card.files)):  # without a card it is no model any more
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
        if bundle.path.is_symlink():
            bundle.path.unlink()


def _half(tensors: dict[str, Tensor]) -> bytes:
    """As a safetensors file, floats in float16."""
    import torch
    from safetensors.torch import save

    half = {
        k: (v.detach().to("cpu", torch.float16) if v.is_floating_point() else v).contiguous()
        for k, v in tensors.items()
    }
    return save(half)


def write_files(path: Path, card: Card, files: dict[str, bytes]) -> Bundle:
    """Make a bundle of a card and the files on it; to one side first, then renamed.

    Args:
        files: May hold the card itself, as it is to be on disk.

    Raises:
        UserError: when ``path`` exists and is no bundle.
    """
    if path.exists() and not (path / CARD).exists():
        raise UserError(f"{path} exists and is no model; choose another name")
    if path.is_symlink():  # what it leads to is replaced
        path = path.resolve()
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make {path} ({error.strerror}); choose another place") from None
    for name, data in files.items():
        (part / name).write_bytes(data)
    if CARD not in files:
        write_card(part, card)
    if path.exists():
        shutil.rmtree(path)
    part.replace(path)
    return Bundle(path, card)


def write_card(path: Path, card: Card) -> None:
    """Replace the card of a bundle in one step."""
    part = path / (CARD + ".part")
    part.write_text(card.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
    part.replace(path / CARD)


def _file(name: str, data: bytes) -> File:
    return File(name=name, sha256=hashlib.sha256(data).hexdigest())


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
