"""Lattice, plan, signature and ledger."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Lattice, Plan, as_begun, blocks_of, chunk_of, first_difference
from connectoscope.errors import UserError
from connectoscope.volumes.geometry import Box

LATTICE = Lattice((12, 16, 20), (2, 4, 4), (2, 4, 4))


@given(st.tuples(*[st.integers(0, 30)] * 3), st.tuples(*[st.integers(1, 30)] * 3))
def test_blocks_write_every_voxel_of_a_box_once_from_aligned_tiles(start, shape):
    box = Box(start, tuple(a + n for a, n in zip(start, shape, strict=True)))
    written = np.zeros(shape, int)
    for block in LATTICE.blocks(box):
        written[block.write.slices] += 1
        assert block.read.shape == LATTICE.tile
        assert all(a % s == 0 for a, s in zip(block.read.start, LATTICE.stride, strict=True))
        core = block.read.grown((-2, -4, -4))
        kept = block.keep.shifted(core.start)
        assert kept == block.write.shifted(box.start)
        assert block.id == "_".join(str(a // c) for a, c in zip(core.start, LATTICE.core, strict=True))
    assert (written == 1).all()


def test_a_box_gets_the_tiles_of_the_whole():
    whole = {block.id: block.read for block in LATTICE.blocks(Box.of((40, 40, 40)))}
    for block in LATTICE.blocks(Box((3, 9, 11), (21, 30, 40))):
        assert whole[block.id] == block.read


def test_order_keeps_neighbours_together():
    first = blocks_of((64, 64, 64), (8, 8, 8))[:8]
    assert {block.id for block in first} == {f"{z}_{y}_{x}" for z in "01" for y in "01" for x in "01"}


def test_a_tile_off_the_stride_or_without_core_is_refused():
    for tile, halo in (((8, 8, 8), (4, 4, 4)), ((13, 16, 20), (2, 4, 4)), ((12, 16, 20), (3, 4, 4))):
        with pytest.raises(ValueError, match="multiples of the stride"):
            Lattice(tile, halo, (2, 4, 4))


@given(st.tuples(*[st.integers(1, 600)] * 3))
def test_chunks_divide_the_core(core):
    assert all(n % c == 0 for n, c in zip(core, chunk_of(core), strict=True))


def a_plan(**changes):
    return Plan(
        **{
            "lattice": LATTICE, "tile": LATTICE.tile, "grid": {"level": 0}, "precision": "float32", "device": "cpu",
            "threads": 2, "intensity": (0.1, 1 / 3), "identity": {"model": "m", "parameters": {"threshold": 128}},
        }
        | changes
    )  # fmt: skip


def test_plan_survives_its_file_and_damage_is_named(tmp_path):
    path = tmp_path / "plan.json"
    assert Plan.read(path) is None
    a_plan().write(path)
    assert Plan.read(path) == a_plan()
    assert Plan.read(path).signature == a_plan().signature
    for damage in ("{", "[]", '{"version": 2}', '{"version": 1}'):
        path.write_text(damage)
        with pytest.raises(UserError, match="--overwrite"):
            Plan.read(path)


def test_halving_keeps_lattice_and_signature():
    half = a_plan().halved(1)
    assert half.tile == (8, 12, 16)
    assert half.revision == 1
    assert half.signature == a_plan().signature
    assert a_plan().halved(5).tile == (6, 12, 12)


def test_first_difference_is_named():
    old = a_plan().signature
    assert first_difference(old, a_plan().signature) is None
    new = a_plan(identity={"model": "m", "parameters": {"threshold": 200}}).signature
    assert first_difference(old, new) == "parameters.threshold was 128 and is now 200"
    assert first_difference(old, a_plan(threads=3).signature) == "plan.threads was 2 and is now 3"
    assert first_difference({"a": 1, "b": 2}, {"a": 1}) == "b was 2 and is now unset"


@pytest.mark.parametrize("tail", [b'{"id": "b"', b"garbage\n", b'{"crc32": 3}\n', b"[1]\n"])
def test_a_torn_line_is_dropped_and_what_was_whole_stays(tmp_path, tail):
    path = tmp_path / "ledger"
    with Ledger(path) as ledger:
        ledger.append("p/a", 1, revision=0)
        ledger.append("p/b", 2, revision=0)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with Ledger(path) as ledger:
        assert "p/a" in ledger
        assert "p/c" not in ledger
        ledger.append("p/c", 3)
    with Ledger(path) as ledger:
        assert [entry["crc32"] for entry in ledger.entries("p/")] == [1, 2, 3]
    assert path.read_bytes().startswith(whole)


def test_chunks_that_became_corrupt_are_those_of_the_beginning():
    fresh = {"input": {"source": "a", "chunks": "corrupt 1 of 16, f00"}}
    begun = {"input": {"source": "a", "chunks": "ba5"}}
    assert as_begun(fresh, begun) == begun
    assert as_begun(begun, fresh) == begun
    for other in (None, {}, {"input": {}}):
        assert as_begun(fresh, other) == fresh
