"""The engine: overlap within bounds, order of durability, pyramids."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.blockwise.engine import READ_AHEAD, Engine, Output, Phase
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import blocks_of
from connectoscope.blockwise.pyramid import Pyramid
from connectoscope.errors import Cancelled
from connectoscope.volumes import downsample


class Quiet:
    """A reporter that only listens."""

    def __init__(self):
        self.told = []

    def progress(self, done, total, phase, **extra):
        self.told.append((done, total, phase))

    def check_cancelled(self):
        pass


def memory_store(shape, chunk, dtype="uint8"):
    return ts.open(
        {
            "driver": "zarr3", "kvstore": "memory://",
            "metadata": {
                "shape": shape, "data_type": dtype,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            },
        },
        create=True,
    ).result()  # fmt: skip


def test_at_most_three_tiles_are_alive(tmp_path):
    lock, alive, peak = threading.Lock(), 0, 0

    class Data:
        def __init__(self):
            nonlocal alive, peak
            with lock:
                alive += 1
                peak = max(peak, alive)

        def __del__(self):
            nonlocal alive
            with lock:
                alive -= 1

    blocks = blocks_of((40, 4, 4), (2, 4, 4))
    phase = Phase(
        "p",
        blocks,
        lambda block: Data(),
        lambda block, data: Output(np.zeros(1, np.uint8)),
        lambda block, data: None,
    )
    with Ledger(tmp_path / "ledger") as ledger:
        Engine(Quiet(), ledger).run(phase)
    assert peak <= READ_AHEAD + 1
    assert alive == 0


def test_a_line_is_written_only_when_the_data_is_durable(tmp_path):
    durable = []

    class Slow:
        def __init__(self, id):
            self.id = id

        def result(self):
            assert f"p/{self.id}" not in ledger
            durable.append(self.id)

    blocks = blocks_of((6, 1, 1), (1, 1, 1))
    reporter = Quiet()
    with Ledger(tmp_path / "ledger") as ledger:
        phase = Phase(
            "p",
            blocks,
            lambda b: None,
            lambda b, d: Output(np.zeros(1, np.uint8), {"note": b.id}),
            lambda b, d: Slow(b.id),
        )
        Engine(reporter, ledger, revision=0).run(phase)
        assert durable == [block.id for block in blocks]
        assert [entry["note"] for entry in ledger.entries("p/")] == durable
        assert Engine(Quiet(), ledger).run(phase) == 0
    assert reporter.told[-1] == (6, 6, "p")


def test_a_failing_read_ends_the_run_and_keeps_what_is_done(tmp_path):
    def read(block):
        if block.id == "3_0_0":
            raise OSError("gone")

    phase = Phase(
        "p",
        blocks_of((6, 1, 1), (1, 1, 1)),
        read,
        lambda b, d: Output(np.zeros(1, np.uint8)),
        lambda b, d: None,
    )
    with Ledger(tmp_path / "ledger") as ledger:
        with pytest.raises(OSError, match="gone"):
            Engine(Quiet(), ledger).run(phase)
        assert {entry["id"] for entry in ledger.entries("p/")} >= {"p/0_0_0", "p/1_0_0"}


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 23)] * 3),
    labels=st.booleans(),
    factors=st.sampled_from(
        [((1, 1, 1), (1, 2, 2), (2, 4, 4)), ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8))]
    ),
    stop=st.integers(0, 30),
)
def test_pyramids_equal_the_reference_and_each_chunk_is_written_once(
    tmp_path_factory, shape, labels, factors, stop
):
    array = np.random.default_rng(0).integers(0, 5 if labels else 255, shape).astype(np.uint8)
    stores = [
        memory_store([-(-n // f) for n, f in zip(shape, factor, strict=True)], [4, 4, 4])
        for factor in factors
    ]
    made = []

    class Counting(Pyramid):
        def make(self, chunk):
            made.append(chunk.id)
            return super().make(chunk)

    class Stopping(Quiet):
        looks = 0

        def check_cancelled(self):
            self.looks += 1
            if self.looks == stop:
                raise Cancelled("test")

    def phase():
        return Phase(
            "p", blocks_of(shape, (8, 4, 8)), lambda b: array[b.write.slices], lambda b, d: Output(d),
            lambda b, d: stores[0][b.write.slices].write(d), Counting(stores, factors, labels=labels),
        )  # fmt: skip

    path = tmp_path_factory.mktemp("engine") / "ledger"
    reporter = Stopping()
    for _ in range(2):
        with Ledger(path) as ledger:
            try:
                Engine(reporter, ledger).run(phase())
            except Cancelled:
                continue
    assert len(made) == len(set(made))
    level = array
    for k in range(1, len(factors)):
        step = tuple(b // a for a, b in zip(factors[k - 1], factors[k], strict=True))
        level = downsample(level, step, labels=labels)
        np.testing.assert_array_equal(stores[k].read().result(), level)
