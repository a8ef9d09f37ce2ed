"""``*.cascade.json``: which levels a cascade looks at, from which score on it goes on, and what that should save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from connectoscope.blockwise.destination import write_file
from connectoscope.blockwise.plan import Signature, first_difference
from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Index3


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GatePlan(_Part):
    """One coarse level: cells scoring less than ``threshold`` are rejected with all that lies under them.

    Attributes:
        factor: Voxels of the grid per voxel of the level (z, y, x).
        gate: Name of the score.
        threshold: In units of the score.
    """

    factor: Index3
    gate: str
    threshold: float


class Prediction(_Part):
    """What a run with the plan should do.

    Attributes:
        calls: Evaluations at each level, level 0 (the fine detector) first; wakes are not in it.
        cells: Cells of level 0.
        seconds, one_level_seconds: Time of the cascade, and of the fine detector everywhere at its own best tile.
        recall: Share of what the fine detector would find that is kept (each positive cell counts once).
        recall_interval: 95 %.
        precision: Relative to one level; never below it, since accepted cells get the same values.
    """

    calls: tuple[float, ...]
    cells: int
    seconds: float
    one_level_seconds: float
    recall: float
    recall_interval: tuple[float, float]
    precision: float = 1.0


class CascadePlan(_Part):
    """A plan, and what it rests on.

    Attributes:
        task: ``segment`` or ``detect``.
        parameters: Of that task, for who wants to run it: source, model or detector, targets.
        identity: Of input, detector and parameters; a run with another one is refused.
        core, tile: Voxels of a cell, and of the tile that computes it.
        gates: Coarse levels, nearest first; empty where one level is better.
        predicted: Of ``gates``.
        verdict: One sentence for people.
        pilot: What was measured: cells, positives, seconds, prevalences, rates, costs.
    """

    version: Literal[1] = 1
    task: Literal["segment", "detect"]
    parameters: dict[str, Any]
    identity: dict[str, Any]
    core: Index3
    tile: Index3
    gates: tuple[GatePlan, ...]
    predicted: Prediction
    verdict: str
    pilot: dict[str, Any]

    @property
    def pays(self) -> bool:
        return bool(self.gates)

    @property
    def promised(self) -> bool:
        """Whether the pilot saw enough to promise the recall that was asked for."""
        return bool(self.pilot.get("best", {}).get("floor_held", True))

    def differs_from(self, identity: Signature) -> str | None:
        """The first thing that it was made for and that is not so in ``identity``; None: it fits."""
        return first_difference(self.identity, json.loads(json.dumps(identity)))

    def write(self, path: Path) -> None:
        write_file(path, (self.model_dump_json(indent=1) + "\n").encode())


def read_plan(path: Path) -> CascadePlan:
    """Read a plan.

    Raises:
        UserError: when there is none, or the file is no plan of this version.
    """
    again = "make one with 'connectoscope plan-cascade'"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cascade plan {path} cannot be read ({error.strerror}); {again}") from None
    except ValueError:
        raise UserError(f"{path} is not a cascade plan; {again}") from None
    try:
        return CascadePlan.model_validate(data)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{path} is not a cascade plan of this version ({where}: {error.errors()[0]['msg']}); {again}"
        ) from None


def check_plan(path: Path, plan: CascadePlan, identity: dict[str, Any]) -> None:
    """Raises UserError, naming the first difference, where the plan was made for something else."""
    difference = plan.differs_from(identity)
    if difference is not None:
        raise UserError(
            f"{path} was made for another run: {difference}. Plan again with 'connectoscope plan-cascade'"
        )
