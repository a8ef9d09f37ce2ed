"""Rounds of wakes: what each costs does not grow with the cells of the volume, nor with the rounds before."""

from __future__ import annotations

import numpy as np

from connectoscope.blockwise.engine import Engine, Output, Phase
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Lattice, place_of
from connectoscope.cascade import run as run_module
from connectoscope.cascade.run import DIRECTIONS, Cascade
from connectoscope.volumes.geometry import Box

RIGHT = DIRECTIONS.index((0, 0, 1))
LONG = 40


class Listening:
    def __init__(self):
        self.done = []

    def progress(self, done, total, phase, **extra):
        self.done.append(done)

    def check_cancelled(self):
        pass


class First(Cascade):
    """Gates that pass the first cell alone."""

    def accept(self, engine, ledger, cells):
        return {(0, 0, 0)}


def follow(path):
    """A thread along one row of cells, of which the first is accepted: (accepted, woken), computed cells, progress."""
    lattice = Lattice((1, 1, 1), (0, 0, 0))
    blocks = {place_of(block.id): block for block in lattice.blocks(Box.of((1, 3, LONG)))}
    computed = []

    def compute(block, _):
        computed.append(block.id)
        return Output(np.zeros(1, np.uint8), {"open": [RIGHT]})

    def phase(places):
        return Phase(
            "fine", [blocks[place] for place in sorted(places)], lambda b: None, compute, lambda b, d: None
        )

    told = Listening()
    with Ledger(path) as ledger:
        found = First(lattice, []).run(Engine(told, ledger), ledger, set(blocks), phase)
    return found[:2], computed, told.done


def test_a_thread_is_followed_and_each_entry_is_read_once(tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(run_module, "place_of", lambda id: parsed.append(id) or place_of(id))
    (accepted, woken), computed, done = follow(tmp_path / "ledger")
    assert accepted == {(0, 0, 0)}
    assert woken == {(0, 0, x) for x in range(1, LONG)}
    assert computed == [f"0_0_{x}" for x in range(LONG)]
    assert len(parsed) == LONG
    assert done == sorted(done), "the progress went back"


def test_resumed_anywhere_it_wakes_the_same_cells(tmp_path):
    whole = follow(tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for kept in (1, LONG // 2, LONG):
        (tmp_path / "part").write_bytes(b"".join(lines[:kept]))
        found, computed, _ = follow(tmp_path / "part")
        assert found == whole[0]
        assert computed == whole[1][kept:]
