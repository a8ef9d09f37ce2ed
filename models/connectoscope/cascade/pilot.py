"""The pilot: what a small, weighted sample of cells says about gates, prevalence and cost.

1. Every gate scores the same cells of level 1 (all of them, or a random part) and the coarser cells above them.
2. Those cells fall into strata by score, and the fine detector runs on the children of a few of each: many where
   objects are likely, some everywhere. A cell counts with the weight of its stratum, so that nothing is biased.

No annotation is needed: what the fine detector finds is what a cascade has to keep.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.engine import Engine, Output, Phase
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Block, Lattice, Place, id_of, place_of
from connectoscope.cascade.gates import Gate
from connectoscope.cascade.ladder import Rung
from connectoscope.cascade.run import score_phase
from connectoscope.jobs.context import Context
from connectoscope.volumes.geometry import Box

SCORED = 4096  # cells of level 1 that gates score at most
STRATA = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # ends, as shares of the cells, highest scores first
ENOUGH = 200  # positive cells that end the pilot
TILES = 6  # of the one-level run that are timed
SHARE, LEAST = 0.05, 20.0  # of the one-level time, and seconds, that the pilot may take

Candidate = tuple[Rung, Gate]


class Fine(Protocol):
    """The fine detector on a lattice; its blocks record ``positive`` and ``open`` among their facts."""

    @property
    def lattice(self) -> Lattice: ...

    def blocks(self, box: Box) -> list[Block]:
        """Of the lattice in ``box`` (grid voxels), as far as a mask leaves them."""
        ...

    def read(self, block: Block) -> Any: ...

    def compute(self, block: Block, data: Any) -> Output: ...


@dataclass(frozen=True)
class Scored:
    """One gate on the sampled cells of level 1.

    Attributes:
        above: Place of the cell of its level that holds each sampled cell, (n, 3).
        scores: Of that cell, (n,).
        cells: Cells of its level in the box.
        seconds: Per call.
    """

    rung: Rung
    gate: Gate
    above: NDArray[np.int64]
    scores: NDArray[np.float64]
    cells: int
    seconds: float


@dataclass(frozen=True)
class Pilot:
    """What was measured.

    Attributes:
        gates: Every candidate.
        children: Cells of level 0 in the box under each sampled cell of level 1, (n,).
        strata: Of each sampled cell, (n,).
        level1_cells, level0_cells: In the box; n may be fewer than the former.
        units: Which of the sampled cells the fine detector ran on, (m,).
        weights: Cells of level 1 that each of them stands for, (m,).
        positives: Children of each that hold an object, (m,).
        fine_seconds: Per call of the fine detector on a cell.
        one_level_seconds: Of the fine detector everywhere, at its own best tile.
        startup_seconds: Before the first block, for either.
        seconds: That the pilot took.
    """

    gates: tuple[Scored, ...]
    children: NDArray[np.int64]
    strata: NDArray[np.int64]
    level1_cells: int
    level0_cells: int
    units: NDArray[np.int64]
    weights: NDArray[np.float64]
    positives: NDArray[np.int64]
    fine_seconds: float
    one_level_seconds: float
    startup_seconds: float
    seconds: float


@dataclass
class _Quiet:
    """Reports nothing of its phases; the pilot has its own progress."""

    context: Context

    def progress(self, done: int, total: int, phase: str, **extra: Any) -> None: ...

    def check_cancelled(self) -> None:
        self.context.check_cancelled()


def take_pilot(
    fine: Fine,
    best: Fine,
    candidates: Sequence[Candidate],
    box: Box,
    context: Context,
    *,
    seed: int,
    startup_seconds: float,
) -> Pilot:
    """Measure.

    Args:
        fine: On the cascade's cells.
        best: The same detector on the tiles it would take without a cascade.
        candidates: Gates; the nearest level comes first and must be there.
        box: The part of the grid that a run would make.
        seed: Of the sampling.
    """
    began = time.monotonic()
    rng = np.random.default_rng(seed)
    path = context.scratch / "pilot.ledger"
    path.unlink(missing_ok=True)
    context.phases(cost=1, gates=3, pilot=6)
    with Ledger(path) as ledger:
        engine = Engine(_Quiet(context), ledger)
        everywhere = best.blocks(box)
        per_tile = _time_tiles(engine, best, everywhere, context)
        one_level = per_tile * len(everywhere)
        budget = max(SHARE * one_level, LEAST)
        blocks = {place_of(block.id): block for block in fine.blocks(box)}
        under: dict[Place, list[Place]] = {}
        first = candidates[0][0]
        for place in blocks:
            under.setdefault(first.parent(place), []).append(place)
        sampled = sorted(under)
        if len(sampled) > SCORED:
            chosen = rng.choice(len(sampled), SCORED, replace=False)
            sampled = [sampled[i] for i in sorted(chosen)]
        gates = []
        for number, (rung, gate) in enumerate(candidates):
            gates.append(_score(engine, ledger, fine, blocks, under, sampled, rung, gate, number))
            context.progress(number + 1, len(candidates), "gates")
        strata = _strata(gates, rng)
        units: list[int] = []
        positives: list[int] = []
        spent = calls = 0.0
        while any(strata) and sum(positives) < ENOUGH and (spent < budget or not positives):
            picked = [stratum.pop() for stratum in strata if stratum]
            now = [blocks[child] for unit in picked for child in under[sampled[unit]]]
            started = time.monotonic()
            engine.run(Phase("pilot", now, fine.read, fine.compute, lambda block, data: None))
            took = time.monotonic() - started
            if units:  # the first round warms up
                calls += len(now)
                spent += took
            else:
                cold = took / len(now)
            found = {
                place_of(e["id"].removeprefix("pilot/")): e["positive"] for e in ledger.entries("pilot/")
            }
            units += picked
            positives += [sum(found[child] for child in under[sampled[unit]]) for unit in picked]
            share = max(sum(positives) / ENOUGH, spent / budget)
            context.progress(int(100 * min(share, 1)), 100, "pilot")
    of = _stratum_of(gates)
    sizes, taken = np.bincount(of, minlength=len(STRATA)), np.bincount(of[units], minlength=len(STRATA))
    weight = sizes / np.maximum(taken, 1) * len(under) / len(sampled)
    return Pilot(
        gates=tuple(gates),
        children=np.array([len(under[place]) for place in sampled]),
        strata=of,
        level1_cells=len(under),
        level0_cells=len(blocks),
        units=np.array(units),
        weights=weight[of[units]],
        positives=np.array(positives),
        fine_seconds=spent / calls if calls else cold,
        one_level_seconds=one_level + startup_seconds,
        startup_seconds=startup_seconds,
        seconds=time.monotonic() - began,
    )


def _time_tiles(engine: Engine, best: Fine, blocks: list[Block], context: Context) -> float:
    """Seconds of a tile of the one-level run: of the middle ones, from the end of the first on, when it reads ahead."""
    middle = max(len(blocks) // 2 - 3, 0)
    ends = [time.monotonic()]

    def compute(block: Block, data: Any) -> Output:
        output = best.compute(block, data)
        ends.append(time.monotonic())
        context.progress(len(ends) - 1, TILES, "cost")
        return output

    engine.run(Phase("tiles", blocks[middle : middle + TILES], best.read, compute, lambda block, data: None))
    steady = ends[1:] if len(ends) > 2 else ends
    return (steady[-1] - steady[0]) / (len(steady) - 1)


def _score(
    engine: Engine,
    ledger: Ledger,
    fine: Fine,
    blocks: dict[Place, Block],
    under: dict[Place, list[Place]],
    sampled: list[Place],
    rung: Rung,
    gate: Gate,
    number: int,
) -> Scored:
    """Run one gate on the cells of its level that hold the sampled ones."""
    name = f"candidate {number}"
    above = [rung.parent(under[place][0]) for place in sampled]
    places = sorted(set(above))
    core = fine.lattice.core
    engine.run(score_phase(name, places[:1], rung, gate, core))  # warm up
    started = time.monotonic()
    engine.run(score_phase(name, places, rung, gate, core))
    seconds = (time.monotonic() - started) / max(len(places) - 1, 1)
    scores = {e["id"].removeprefix(f"{name}/"): e["score"] for e in ledger.entries(f"{name}/")}
    cells = len({rung.parent(place) for place in blocks})
    return Scored(rung, gate, np.array(above), np.array([scores[id_of(p)] for p in above]), cells, seconds)


def _ranks(gates: Sequence[Scored]) -> NDArray[np.float64]:
    """How high each sampled cell stands in the gate that likes it most: 0 is the highest, 1 the lowest."""
    orders = []
    for scored in gates:
        order = np.argsort(np.argsort(-scored.scores, kind="stable"), kind="stable")
        orders.append(order / len(order))
    best = np.min(orders, axis=0)
    ranks: NDArray[np.float64] = np.argsort(np.argsort(best, kind="stable"), kind="stable") / len(best)
    return ranks


def _stratum_of(gates: Sequence[Scored]) -> NDArray[np.int64]:
    return np.searchsorted(np.array(STRATA), _ranks(gates), side="right").clip(max=len(STRATA) - 1)


def _strata(gates: Sequence[Scored], rng: np.random.Generator) -> list[list[int]]:
    """Sampled cells by stratum, each in random order."""
    of = _stratum_of(gates)
    return [rng.permutation(np.flatnonzero(of == s)).tolist() for s in range(len(STRATA))]
