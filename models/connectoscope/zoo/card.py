"""The model card, schema 1: all that is needed to run, judge, compare, adapt, prune and cite a model."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"  # of a model, and of a file in its folder
# The files of a bundle.
CARD, WEIGHTS, GATE = "card.json", "weights.safetensors", "gate.safetensors"
SIGNATURE, ONNX = "signature.safetensors", "model.onnx"
Lengths = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
Steps = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    """Unknown keys are kept, so that a newer program's card survives this one."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Architecture(_Part):
    name: str
    arguments: dict[str, Any]


class Normalisation(_Part):
    """Percentiles (0-100) of the grid that the network sees."""

    method: Literal["percentile"] = "percentile"
    low: Annotated[float, Field(ge=0, le=100)] = 1.0
    high: Annotated[float, Field(ge=0, le=100)] = 99.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"percentile low {self.low:g} is not below high {self.high:g}")
        return self


class Imported(_Part):
    """How an imported model wants intensities: ``(v - a) / (b - a)``, clipped only far outside (:data:`WIDE`).

    ``a`` and ``b`` are the percentiles ``low`` and ``high`` of the grid that the network sees (``scale-range``), its mean
    and one standard deviation above it (``zero-mean``), or ``low`` and ``high`` themselves (``fixed``).
    """

    method: Literal["scale-range", "zero-mean", "fixed"]
    low: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    high: Annotated[float, Field(allow_inf_nan=False)] = 100.0

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.method == "scale-range" and not (self.low >= 0 and self.high <= 100):
            raise ValueError(f"percentiles are 0 to 100, got {self.low:g} and {self.high:g}")
        return self


WIDE = 16.0  # ranges of an imported model's normalisation to both sides of ``a``, which become -0.5 to 0.5


class Inputs(_Part):
    axes: Literal["zyx"] = "zyx"
    voxel_size: tuple[Size, Size, Size]
    unit: Literal["nanometer"] = "nanometer"
    normalisation: Normalisation | Imported = Normalisation()


class Output(_Part):
    """One channel. ``threshold``: foreground is >= it, in 0-255 as stored."""

    name: str
    meaning: str
    instances: bool
    threshold: int = Field(128, ge=1, le=255)
    min_volume_nm3: float = Field(0.0, ge=0)


class NeuronRule(_Part):
    """How neurons are made of affinities or ``boundary`` (:mod:`connectoscope.segmentation.neurons`).

    Fragments are found in ``boundary`` (watershed of the distance to it) or in the ``affinities`` (mutex watershed, ten
    times slower, and less alike on both sides of a block's face), as far as the model has them. They are joined while
    their mean affinity is >= ``threshold`` (0-255); those smaller than ``min_volume_nm3`` are absorbed by the neighbour of
    the weakest boundary.
    """

    fragments: Literal["boundary", "affinities"] = "boundary"
    threshold: int = Field(default=128, ge=1, le=255)
    min_volume_nm3: float = Field(default=0.0, ge=0)


class Halo(_Part):
    """Voxels per side, z, y, x. ``practical`` changes at most 0.1 % of the voxels by more than 1 of 255."""

    exact: Lengths
    practical: Lengths


class Score(_Part):
    """One measured figure and the command that gives it again."""

    metric: str
    value: float
    interval: tuple[float, float] | None = None
    data: str
    split: str
    command: str


class File(_Part):
    name: str = Field(pattern=NAME)  # in the bundle's own folder
    sha256: str


class Companion(_Part):
    """The model's coarse gate, in ``gate.safetensors``: a small network that sees where the model finds something.

    ``factor`` (voxels of the model's grid per coarse voxel), ``halo`` (coarse voxels) and ``voxel_size`` (nm, of the
    coarse level) are z, y, x; ``outputs`` are the model's outputs, in the order of the gate's channels.
    """

    architecture: Architecture
    factor: Steps
    voxel_size: tuple[Size, Size, Size]
    outputs: tuple[str, ...] = Field(min_length=1)
    halo: Lengths
    training: dict[str, Any] = {}
    scores: tuple[Score, ...] = ()


class Space(_Part):
    """Feature vectors of the training data: which network made them, of patches of which shape (voxels of that network).

    ``network`` and ``hash`` are its name and :attr:`connectoscope.zoo.Bundle.hash`; ``vectors`` is how many there are.
    """

    network: str
    hash: str
    patch: Steps
    vectors: int = Field(ge=2)


class Signature(_Part):
    """What the model was trained on, as vectors in ``signature.safetensors``: enough to measure how far a volume is.

    ``own``: features of the model's own network; ``common``: of the network that all models share. ``data`` names the
    volumes, ``seed`` drew the patches.
    """

    own: Space
    common: Space | None = None
    data: tuple[str, ...]
    seed: int = 0


class Card(_Part):
    """``card.json``."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: str = Field(pattern=NAME)
    version: str
    description: str
    architecture: Architecture
    members: tuple[str, ...] = ()
    inputs: Inputs
    outputs: tuple[Output, ...] = Field(min_length=1)
    neurons: NeuronRule | None = None
    receptive_field: Steps
    stride: Steps
    halo: Halo
    training: dict[str, Any] = {}
    scores: tuple[Score, ...] = ()
    licence: str
    data_licences: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None
    signature: Signature | None = None
    companion: Companion | None = None
    lineage: tuple[dict[str, Any], ...] = ()
    files: tuple[File, ...]

    @property
    def reconstructs(self) -> bool:
        """Whether it makes EM from X-ray, so that only ``reconstruct`` can use it."""
        return self.architecture.name == "unet3d-upscaling"

    @property
    def imported(self) -> bool:
        """Whether it is an ONNX network of another program: it can be used, but not trained or changed."""
        return self.architecture.name == "onnx"

    @model_validator(mode="after")
    def _tiles_fit(self) -> Self:
        for name, halo in (("exact", self.halo.exact), ("practical", self.halo.practical)):
            if any(h % s for h, s in zip(halo, self.stride, strict=True)):
                raise ValueError(f"halo.{name} {halo} is not a multiple of the stride {self.stride}")
        return self

    @model_validator(mode="after")
    def _companion_fits(self) -> Self:
        unknown = set(self.companion.outputs if self.companion else ()) - {o.name for o in self.outputs}
        if unknown:
            raise ValueError(
                f"the companion has outputs that the model has not: {', '.join(sorted(unknown))}"
            )
        return self

    @property
    def planes(self) -> bool:
        """The network sees single planes: the distance of sections is nothing to it."""
        return self.receptive_field[0] == 1

    def output(self, name: str) -> Output:
        """The output of that name; KeyError when there is none."""
        return next(o for o in self.outputs if o.name == name)
