"""Blocks done by other processes or other machines, through dask.distributed.

::

    this process  ── ids of blocks ──▸ scheduler ──▸ workers: open source and destination themselves,
      ledger, pyramid ◂── checksum, facts ──┘                 read, compute, write

No voxel goes through the scheduler. A block whose worker is lost is done again by another one; that is harmless, since a
block's bytes follow from the plan alone. The scheduler is trusted: whoever can reach it can run code on the workers.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectoscope.errors import Stopped, UserError

if TYPE_CHECKING:
    import distributed

LOCAL = "local"
QUEUES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster"}
PATIENCE = 30  # seconds until a scheduler must answer
FAREWELL = 30  # seconds that blocks under way get to finish when a run ends before them
AHEAD = 3  # blocks for each worker that are handed out at a time
POLL = 0.5  # seconds between two looks at whether to stop

Done = tuple[int, dict[str, Any]]
"""Checksum (crc32) and facts of a block for its ledger line."""
Work = Callable[[str], Done]
"""Does the block of this id; must be picklable."""


def check_scheduler(name: str) -> None:
    """Raises UserError, without asking anybody, where ``name`` can be no scheduler (see :class:`Crew`)."""
    if name == LOCAL or "://" in name:
        return
    if name in QUEUES:
        missing = [part for part in ("cores", "memory") if _described(name, part) is None]
        if missing:
            raise UserError(
                f"--scheduler {name} needs jobqueue: {name}: {' and '.join(missing)} (of a job) in "
                "~/.config/dask/jobqueue.yaml"
            )
    elif name.endswith(".json") or "/" in name:
        if not Path(name).is_file():
            raise UserError(
                f"there is no file {name}; give the one that 'dask scheduler --scheduler-file' writes"
            )
    elif ":" not in name:
        raise UserError(
            f"there is no scheduler '{name}'; choose local, slurm, pbs or lsf, or give the address that 'dask scheduler' "
            "prints"
        )


class Crew:
    """Workers behind a scheduler. Use as a context manager: what was started for it ends with it.

    Args:
        scheduler: ``local`` (processes of this machine), ``slurm``, ``pbs``, ``lsf`` (jobs, as ~/.config/dask/jobqueue.yaml
            describes them), or the address of a running scheduler (``tcp://host:8786``, or its JSON file).
        workers: How many are started; of no meaning for an address.

    Raises:
        UserError: dask.distributed is not installed, a queue is not described, or nobody answers.
    """

    def __init__(self, scheduler: str, workers: int) -> None:
        check_scheduler(scheduler)
        try:
            import distributed
        except ImportError:
            raise UserError(
                "--workers and --scheduler need dask.distributed: pip install 'connectoscope[cluster]'"
            ) from None
        logging.getLogger("distributed").setLevel(logging.ERROR)
        self._rest = contextlib.ExitStack()
        try:
            if scheduler == LOCAL:
                cluster = distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
                )
                address: Any = self._rest.enter_context(cluster)
            elif scheduler in QUEUES:
                address = self._rest.enter_context(_queue(scheduler))
                address.scale(jobs=workers)
            else:
                address = scheduler
            kind = {"scheduler_file": address} if str(address).endswith(".json") else {"address": address}
            self.client: distributed.Client = self._rest.enter_context(
                distributed.Client(**kind, timeout=PATIENCE)
            )
        except (OSError, TimeoutError, ValueError) as error:
            self._rest.close()
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"no scheduler answers at {scheduler} ({text}); give the address that 'dask scheduler' prints"
            ) from None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._rest.close()

    def each(self, work: Work, ids: Sequence[str], check: Callable[[], None]) -> Iterator[tuple[str, Done]]:
        """Do all ``ids``, in any order; ``check`` is called now and then and may raise to stop.

        Raises:
            Stopped: workers died again and again over one block, or the scheduler is gone.
        """
        import distributed

        left = iter(ids)
        under_way: dict[distributed.Future, str] = {}
        try:
            while True:
                check()
                with self._asking():
                    room = AHEAD * max(len(self.client.nthreads()), 1)
                    while len(under_way) < room and (id := next(left, None)) is not None:
                        under_way[self.client.submit(work, id, pure=False)] = id
                    if not under_way:
                        return
                    with contextlib.suppress(TimeoutError):
                        distributed.wait(list(under_way), timeout=POLL, return_when="FIRST_COMPLETED")
                for future in [f for f in under_way if f.done()]:
                    id = under_way.pop(future)
                    try:
                        # What the work itself raised is no word of the scheduler's.
                        with contextlib.nullcontext() if future.status == "error" else self._asking():
                            done = future.result()
                    except distributed.KilledWorker:
                        raise Stopped(
                            f"block {id} ended one worker after another, perhaps for lack of memory; "
                            "give the workers more, then resume"
                        ) from None
                    yield id, done
        finally:
            if under_way:
                self._dismiss(list(under_way))

    def _dismiss(self, futures: Sequence[distributed.Future]) -> None:
        """Take back what has not begun and wait, for a time, for what has: workers may outlive the run, and its lock."""
        keys = {future.key for future in futures}
        end = time.monotonic() + FAREWELL
        with contextlib.suppress(Stopped), self._asking():
            self.client.cancel(futures)
            while self.client.status == "running" and time.monotonic() < end:
                time.sleep(POLL)
                if not keys & {key for stacks in self.client.call_stack().values() for key in stacks}:
                    return

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """A word with the scheduler; it goes wrong where there is none any more."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, (OSError, CancelledError)) and self.client.status == "running":
                raise
            raise Stopped("the scheduler is gone; start one, then resume") from error


def _described(queue: str, part: str) -> Any:
    try:
        import dask.config
    except ImportError:
        raise UserError(
            f"--scheduler {queue} needs dask-jobqueue: pip install 'connectoscope[cluster]'"
        ) from None
    return dask.config.get(f"jobqueue.{queue}.{part}", None)


def _queue(name: str) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise UserError(
            f"--scheduler {name} needs dask-jobqueue: pip install 'connectoscope[cluster]'"
        ) from None
    return getattr(dask_jobqueue, QUEUES[name])()
