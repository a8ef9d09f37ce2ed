"""A recipe: the TOML file that says all there is to a training, so that anybody can repeat it."""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from connectoscope.errors import UserError
from connectoscope.volumes import Volume, open_volume
from connectoscope.zoo.card import NAME, NeuronRule


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Architecture(_Part):
    """A registered architecture and its arguments (:mod:`connectoscope.networks.registry`)."""

    name: str
    arguments: dict[str, Any]


class Inputs(_Part):
    """The grid that the network wants to see; voxel size in nm, z, y, x.

    Training volumes with other pixels are resampled in y and x.
    """

    voxel_size: tuple[float, float, float]
    percentiles: tuple[float, float] = (1.0, 99.0)

    @field_validator("percentiles")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("must be two of 0 to 100, the lower one first")
        return value


class OutputRecipe(_Part):
    """One output channel, in order."""

    name: str
    meaning: str
    instances: bool
    min_volume_nm3: float = Field(0.0, ge=0)


class TrainingVolume(_Part):
    """A labelled volume under the data folder, and its split by planes (half-open, axis z).

    ``labels`` names a mask for each output; ``boundaries_of`` instance labels, for outputs that are their boundaries.
    ``channel`` is the name or number of the one of ``raw`` that is learned, where it has several.
    """

    name: str
    published: str
    raw: str
    channel: int | str | None = None
    labels: dict[str, str] = {}
    boundaries_of: dict[str, str] = {}
    train: tuple[int, int]
    choose: tuple[int, int]
    report: tuple[int, int]

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for one, other in itertools.combinations(("train", "choose", "report"), 2):
            a, b = getattr(self, one), getattr(self, other)
            # Scores would be of planes that it learned from, or was chosen on.
            if max(a[0], b[0]) < min(a[1], b[1]):
                raise ValueError(
                    f"{one} = {list(a)} and {other} = {list(b)} of {self.name} share planes; they must not"
                )
        return self


class Sampling(_Part):
    """Patches of ``patch`` voxels.

    ``centred`` is the share of patches centred on a voxel of that label. From update ``plain_from`` on, the share
    ``plain`` of the patches is flipped and turned by quarter turns only: nothing is interpolated, so that the network
    also sees the grain of the stored image.
    """

    patch: tuple[int, int, int]
    batch: int = Field(2, ge=1)
    centred: dict[str, float] = {}
    plain: float = Field(0.0, ge=0, le=1)
    plain_from: int = Field(0, ge=0)

    @field_validator("centred")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        if any(share < 0 for share in value.values()) or sum(value.values()) > 1 + 1e-9:
            raise ValueError("must be shares of the patches, 0 or more each and at most 1 together")
        return value


class Training(_Part):
    """How the weights are found.

    The loss is binary cross-entropy plus ``dice`` times (1 - soft Dice), the latter until update ``dice_until``: Dice
    finds small objects sooner, cross-entropy alone gives probabilities that mean something. ``average`` is the decay of
    the moving average of the weights.
    """

    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warm_up: int = Field(200, ge=0)
    weight_decay: float = Field(1e-3, ge=0)
    average: float = Field(0.998, ge=0, lt=1)
    choose_every: int = Field(500, ge=1)
    dice: float = Field(0.5, ge=0)
    dice_until: int | None = Field(None, ge=0)


Range = tuple[float, float]


class Xray(_Part):
    """X-ray to EM: volumes are EM without labels, of which X-ray scans are simulated on the fly
    (:mod:`connectoscope.xray2em.pairs`), each with numbers drawn from these ranges.

    ``resolution`` and ``halo`` are in nm (:class:`connectoscope.xray2em.surrogate.Surrogate`), ``counts`` photons per pixel,
    ``rings`` the spread of the detector's gain. ``scored`` are the resolution and the counts of the scans that are scored.
    ``beta`` weights the likelihood (Seitzer et al. 2022). ``membranes`` names a model with the output ``boundary``: what it
    finds in the mean shall be what it finds in the EM, from update ``membranes_from`` on, with that ``membranes_weight``.
    """

    resolution: Range = (60.0, 130.0)
    counts: Range = (1e3, 1e5)
    rings: Range = (0.0, 0.02)
    halo: Range = (1500.0, 4500.0)
    scored: Range = (90.0, 1e4)
    beta: float = Field(0.5, ge=0, le=1)
    membranes: str | None = None
    membranes_weight: float = Field(0.2, ge=0)
    membranes_from: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("resolution", "counts", "rings", "halo"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} must be a range, low before high")
        return self


class Recipe(_Part):
    """See ``recipes/synapse-vnc.toml`` for one with comments.

    Where a volume has the label ``neuron`` (ids of objects), outputs named ``boundary`` and ``affinity_Z_Y_X`` are derived
    from it (:mod:`connectoscope.training.instances`); ``neurons`` is for the card and has no part in the training.
    """

    name: str = Field(pattern=NAME)
    version: str
    description: str
    seed: int
    licence: str
    data_licences: tuple[str, ...]
    architecture: Architecture
    inputs: Inputs
    outputs: tuple[OutputRecipe, ...] = Field(min_length=1)
    volumes: tuple[TrainingVolume, ...] = Field(min_length=1)
    sampling: Sampling
    training: Training
    neurons: NeuronRule | None = None
    xray: Xray | None = None

    @field_validator("outputs")
    @classmethod
    def _apart(cls, value: tuple[OutputRecipe, ...]) -> tuple[OutputRecipe, ...]:
        if len({output.name for output in value}) < len(value):
            raise ValueError("each must have a name of its own")
        return value


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        UserError: when the file is missing, is no TOML, or a value is missing, unknown or out of range.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
        return Recipe(**values)
    except OSError as error:
        raise UserError(f"recipe {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"recipe {path}, {where}: {first['msg']}") from None


def check_planes(recipe: Recipe, entry: TrainingVolume, planes: int, empty: Sequence[str] = ()) -> None:
    """Whether the parts of a volume are among its ``planes``; those named in ``empty`` may hold none.

    Raises:
        UserError: when one is not.
    """
    for part in ("train", "choose", "report"):
        first, last = getattr(entry, part)
        if not 0 <= first <= last <= planes or (first == last and part not in empty):
            raise UserError(
                f"recipe {recipe.name}: {part} = [{first}, {last}] of {entry.name} is not a range of its {planes} planes"
            )


def data_folder() -> Path:
    """Where the full data sets lie: ``CONNECTOSCOPE_DATA``, by default ``../shared/data`` where it exists."""
    named = os.environ.get("CONNECTOSCOPE_DATA")
    return Path(named) if named else Path("..", "shared", "data")


def find_data(relative: str, published: str) -> Path:
    """A file of the full data sets.

    Raises:
        UserError: when it is missing, saying where it is published.
    """
    path = data_folder() / relative
    if not path.exists():
        raise UserError(
            f"training data {path} is missing; get it from {published} and set CONNECTOSCOPE_DATA to its folder"
        )
    return path


def open_image(entry: TrainingVolume) -> Volume:
    """The image of a recipe's volume.

    Raises:
        UserError: it is missing, or has several channels and the recipe does not say which.
    """
    volume = open_volume(find_data(entry.raw, entry.published), channel=entry.channel)
    if entry.channel is None and len(volume.channels) > 1:
        raise UserError(
            f"{entry.name} has channels {', '.join(volume.channels)}: choose one in its [[volumes]] of the recipe, "
            "for example channel = 0"
        )
    return volume
