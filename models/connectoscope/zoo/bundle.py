"""Model bundles: a folder with ``card.json`` and ``weights.safetensors``. Loading one runs no code from it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import ValidationError

from connectoscope.errors import UserError
from connectoscope.zoo.card import Card

if TYPE_CHECKING:
    from torch import Tensor, nn

    from connectoscope.networks.predictor import Predictor
    from connectoscope.volumes.geometry import Index3

CARD, WEIGHTS = "card.json", "weights.safetensors"


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
            [f.model_dump() for f in self.card.files],
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def load_network(self) -> nn.Module:
        """The network with its weights, float32, in evaluation mode.

        Raises:
            UserError: when the weights are missing, damaged or of another architecture.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        from connectoscope.networks.registry import build_network

        again = f"get the model '{self.card.name}' again"
        try:
            data = (self.path / WEIGHTS).read_bytes()
        except OSError as error:
            raise UserError(f"weights of {self.path} cannot be read ({error.strerror}); {again}") from None
        wanted = {f.name: f.sha256 for f in self.card.files}.get(WEIGHTS)
        if wanted != hashlib.sha256(data).hexdigest():
            raise UserError(f"weights of {self.path} are damaged (their checksum is not the card's); {again}")
        network = build_network(self.card.architecture.name, self.card.architecture.arguments)
        try:
            network.load_state_dict(
                {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in load(data).items()}
            )
        except (SafetensorError, RuntimeError):
            raise UserError(
                f"weights of {self.path} do not fit the architecture on its card; {again}"
            ) from None
        return network.eval()

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
    ) -> Predictor:
        """Ready to run on tiles of that shape; see :func:`connectoscope.networks.predictor.make_predictor`."""
        from connectoscope.networks.predictor import make_predictor

        return make_predictor(
            self.load_network(),
            tuple(o.name for o in self.card.outputs),
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
    return Path(named) if named else Path(platformdirs.user_data_dir("connectoscope", False)) / "models"


def bundled_models() -> Path:
    return Path(str(resources.files("connectoscope_resources") / "models"))


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        UserError: when there is none, or its card is damaged or of a schema from the future.
    """
    try:
        values = json.loads((path / CARD).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is no model: it has no {CARD}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the card of model {path} cannot be read ({error}); get the model again") from None
    if values.get("schema") != 1:
        raise UserError(
            f"the card of model {path} has schema {values.get('schema')!r}, this program reads 1; update connectoscope"
        )
    try:
        return Bundle(path, Card(**values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise UserError(
            f"the card of model {path} is damaged: {where + ': ' if where else ''}{what}; get the model again"
        ) from None


def list_models() -> list[Bundle]:
    """The user's models and the bundled ones, by name; a user's model hides a bundled one of the same name.

    Folders that hold a damaged card are left out here and named when they are asked for.
    """
    found: dict[str, Bundle] = {}
    for folder in (bundled_models(), user_models()):
        for card in sorted(folder.glob(f"*/{CARD}")):
            try:
                found[card.parent.name] = read_bundle(card.parent)
            except UserError:
                continue
    return [found[name] for name in sorted(found)]


def find_model(name: str | Path) -> Bundle:
    """A model by path, else by name among the user's, then the bundled ones.

    Raises:
        UserError: when it is unknown (the names that there are, are listed) or damaged.
    """
    path = Path(name)
    if (path / CARD).exists():
        return read_bundle(path)
    if path.name == str(name):
        for folder in (user_models(), bundled_models()):
            if (folder / path / CARD).exists():
                return read_bundle(folder / path)
    names = ", ".join(b.path.name for b in list_models()) or "none"
    raise UserError(f"there is no model '{name}'; known: {names} (or give a folder with a {CARD})")


def write_bundle(path: Path, card: Card, tensors: dict[str, Tensor]) -> Bundle:
    """Make a bundle: float16 weights, then the card with their checksum; to one side first, then renamed.

    Raises:
        UserError: when ``path`` exists and is no bundle.
    """
    import torch
    from safetensors.torch import save

    if path.exists() and not (path / CARD).exists():
        raise UserError(f"{path} exists and is no model; choose another name")
    half = {
        k: (v.detach().to("cpu", torch.float16) if v.is_floating_point() else v).contiguous()
        for k, v in tensors.items()
    }
    data = save(half)
    card = card.model_copy(update={"files": (_file(WEIGHTS, data),)})
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / WEIGHTS).write_bytes(data)
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


def _file(name: str, data: bytes) -> object:
    from connectoscope.zoo.card import File

    return File(name=name, sha256=hashlib.sha256(data).hexdigest())
