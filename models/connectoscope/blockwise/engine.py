"""The block engine: phases of blocks, reading, computing and writing at the same time.

    read pool      | read 3 | read 4 |        ...      at most READ_AHEAD blocks wait
    calling thread    | compute 2 | compute 3 | ...    one block
    TensorStore           | write 1 | write 2 | ...    at most one block behind
    ledger                       1 .      2 .          a line when the block is durable

So peak memory is a base plus about three tiles, whatever the volume. Work in the ledger is skipped, so
a run that was killed anywhere goes on where it was and ends with the same bytes: every storage unit is
written by exactly one block (or coarse chunk of a pyramid), and what is written depends on the block alone.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from connectoscope.blockwise.crew import Crew, Work
from connectoscope.blockwise.ledger import Ledger
from connectoscope.blockwise.plan import Block
from connectoscope.blockwise.pyramid import Coarse, Pyramid
from connectoscope.errors import Cancelled, Stopped, Unreadable

READ_AHEAD = 2
COARSE_AHEAD = 4  # coarse chunks that may wait before blocks do

Read = TypeVar("Read")


class Reporter(Protocol):
    """What the engine needs of a job's context."""

    def progress(self, done: int, total: int, phase: str, **extra: Any) -> None: ...

    def check_cancelled(self) -> None: ...


class Writing(Protocol):
    """A write under way; ``result()`` returns when it is durable (``tensorstore.WriteFutures``)."""

    def result(self) -> Any: ...


@dataclass(frozen=True)
class Output:
    """What a block computes: the data to write, and facts for its ledger line (JSON)."""

    data: NDArray[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase(Generic[Read]):
    """One round over blocks.

    Attributes:
        name: Prefix of its ids in the ledger, and its name in the progress.
        blocks: In the order in which they run.
        read: In a thread, ahead of time.
        compute: In the calling thread, one block at a time.
        write: Starts writing; the data must not change afterwards. None: durable already.
        pyramid: Coarser levels of what the blocks write.
        elsewhere: Reads, computes and writes a block in another process, the same bytes; None: here alone.
    """

    name: str
    blocks: Sequence[Block]
    read: Callable[[Block], Read]
    compute: Callable[[Block, Read], Output]
    write: Callable[[Block, NDArray[Any]], Writing | None]
    pyramid: Pyramid | None = None
    elsewhere: Work | None = None


class Engine:
    """Runs phases one after the other.

    Args:
        reporter: Told of progress; asked between blocks whether to stop.
        ledger: Finished work; skipped and appended to.
        crew: Does the blocks of the phases that can be done elsewhere.
        facts: Added to every line of the ledger (the plan's revision).
    """

    def __init__(self, reporter: Reporter, ledger: Ledger, crew: Crew | None = None, **facts: Any) -> None:
        self._reporter = reporter
        self._ledger = ledger
        self._crew = crew
        self._facts = facts

    def run(self, phase: Phase[Any]) -> int:
        """Do what is left of ``phase``; returns the number of voxels written by this call.

        Raises:
            Cancelled: from ``check_cancelled``; blocks under way are finished and recorded first.
            Stopped: the input cannot be read on; likewise.
        """
        with ThreadPoolExecutor(1, "coarse") as reducer:
            doing = _Round(phase, self._ledger, self._facts, reducer)
            left = [block for block in phase.blocks if not doing.is_done(block)]
            try:
                self._report(phase, doing)
                if self._crew is not None and phase.elsewhere is not None:
                    self._run_elsewhere(phase, doing, left, self._crew, phase.elsewhere)
                else:
                    self._run_here(phase, doing, left)
                doing.settle()
                while doing.has_coarse():
                    self._reporter.check_cancelled()
                    doing.settle_one_coarse()
                self._report(phase, doing)
            except Cancelled:
                doing.abandon()
                raise
            except Unreadable as error:
                doing.abandon()
                raise Stopped(f"{error}; finished blocks are kept: fix that, then resume") from error
            finally:
                reducer.shutdown(wait=False, cancel_futures=True)
        return doing.voxels

    def _run_here(self, phase: Phase[Any], doing: _Round, blocks: Sequence[Block]) -> None:
        left = iter(blocks)
        reads: deque[tuple[Block, Future[Any]]] = deque()
        with ThreadPoolExecutor(READ_AHEAD, "read") as readers:

            def read_ahead() -> None:
                while len(reads) < READ_AHEAD and (block := next(left, None)) is not None:
                    reads.append((block, readers.submit(phase.read, block)))

            try:
                read_ahead()
                while reads:
                    self._reporter.check_cancelled()
                    block, reading = reads.popleft()
                    data = reading.result()
                    del reading
                    read_ahead()
                    output = phase.compute(block, data)
                    del data
                    doing.write(block, output)
                    del output
                    self._report(phase, doing)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)

    def _run_elsewhere(
        self, phase: Phase[Any], doing: _Round, blocks: Sequence[Block], crew: Crew, work: Work
    ) -> None:
        by_id = {block.id: block for block in blocks}
        for id, (crc, facts) in crew.each(work, list(by_id), self._reporter.check_cancelled):
            doing.finished(by_id[id], crc, facts)
            self._report(phase, doing)

    def _report(self, phase: Phase[Any], doing: _Round) -> None:
        self._reporter.progress(doing.done, len(phase.blocks), phase.name)


class _Round:
    """What is under way in one phase."""

    def __init__(
        self, phase: Phase[Any], ledger: Ledger, facts: Mapping[str, Any], reducer: ThreadPoolExecutor
    ) -> None:
        self._phase = phase
        self._ledger = ledger
        self._facts = facts
        self._reducer = reducer
        self._writing: deque[tuple[Block, Output, Writing | None]] = deque()
        self._coarse: deque[tuple[Coarse, Future[int]]] = deque()
        self.done = sum(self.is_done(block) for block in phase.blocks)
        self.voxels = 0
        if phase.pyramid is not None:
            prefix = f"{phase.name}/"
            ids = {entry["id"].removeprefix(prefix) for entry in ledger.entries(prefix)}
            self._start_coarse(phase.pyramid.start(phase.blocks, ids))

    def is_done(self, block: Block) -> bool:
        return f"{self._phase.name}/{block.id}" in self._ledger

    def write(self, block: Block, output: Output) -> None:
        """Start writing; the block before is settled first, so at most one output waits."""
        self.settle()
        self._writing.append((block, output, self._phase.write(block, output.data)))

    def settle(self) -> None:
        """Wait until the blocks written so far are durable, and record them."""
        while self._writing:
            block, output, writing = self._writing.popleft()
            self.finished(block, _settled(output, writing), output.facts)

    def has_coarse(self) -> bool:
        return bool(self._coarse)

    def settle_one_coarse(self) -> None:
        chunk, making = self._coarse.popleft()
        self._record(chunk.id, making.result(), {})
        if self._phase.pyramid is not None:
            self._start_coarse(self._phase.pyramid.finished(chunk.level, chunk.box))

    def abandon(self) -> None:
        """Record what is under way, drop what has not begun."""
        for chunk, making in self._coarse:
            if not making.cancel():
                self._record(chunk.id, making.result(), {})
        for block, output, writing in self._writing:
            self._record(block.id, _settled(output, writing), output.facts)

    def finished(self, block: Block, crc: int, facts: Mapping[str, Any]) -> None:
        """Record a block that is durable; what is coarser of it is begun."""
        self._record(block.id, crc, facts)
        self.done += 1
        self.voxels += block.write.size
        if self._phase.pyramid is not None:
            self._start_coarse(self._phase.pyramid.finished(0, block.write))
        while self._coarse and (self._coarse[0][1].done() or len(self._coarse) > COARSE_AHEAD):
            self.settle_one_coarse()

    def _start_coarse(self, chunks: Sequence[Coarse]) -> None:
        if self._phase.pyramid is not None:
            make = self._phase.pyramid.make
            self._coarse.extend((chunk, self._reducer.submit(make, chunk)) for chunk in chunks)

    def _record(self, id: str, crc: int, facts: Mapping[str, Any]) -> None:
        self._ledger.append(f"{self._phase.name}/{id}", crc, **self._facts, **facts)


def _settled(output: Output, writing: Writing | None) -> int:
    """The checksum of what was written, once it is durable."""
    if writing is not None:
        writing.result()
    return zlib.crc32(np.ascontiguousarray(output.data).data)


def do_block(phase: Phase[Any], block: Block) -> tuple[int, dict[str, Any]]:
    """All of one block, now; its checksum and facts."""
    output = phase.compute(block, phase.read(block))
    return _settled(output, phase.write(block, output.data)), dict(output.facts)
