"""What a task's ``run`` gets beside its parameters: where to work, on what, and whom to tell."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from connectoscope.errors import Cancelled, UserError
from connectoscope.jobs.events import Listener
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.limits import cores
from connectoscope.jobs.memory import is_out_of_memory
from connectoscope.jobs.replaced import drop, set_aside
from connectoscope.jobs.request import Device, JobRequest

if TYPE_CHECKING:
    from connectoscope.blockwise.crew import Crew

PROGRESS_SECONDS = 0.2  # at most five progress events a second
RATE_SECONDS = 60.0  # the time left is judged by the last minute
RATE_AFTER_SECONDS = 2.0  # the first moments (loading, compiling) say nothing
_NONE: Mapping[str, tuple[float, float]] = MappingProxyType({})


class Context:
    """The run of one job, seen from its task."""

    def __init__(
        self, job: JobFolder, request: JobRequest, *, tile_scale: int = 0, listener: Listener | None = None
    ) -> None:
        self.began = time.monotonic()
        self.job = job
        self.request = request
        self.tile_scale = tile_scale
        self.warnings: list[str] = []
        self.resumed = job.has_begun()
        # A run that is resumed must not wipe its own half-finished output.
        self.overwrite = request.overwrite and (not self.resumed or job.may_replace(request))
        self.threads = threads_of(request)
        self._events = job.events(listener)
        self._shares: dict[str, tuple[float, float]] = {}
        self._samples: deque[tuple[float, float]] = deque()
        self._last_progress = -PROGRESS_SECONDS
        self._held_back: dict[str, Any] | None = None

    @classmethod
    def local(
        cls, folder: Path | str, device: Device = "cpu", *, listener: Listener | None = None, **options: Any
    ) -> Context:
        """A context without a process, for library use and tests: ``folder`` is made, events are written.

        Args:
            folder: Becomes the job folder.
            device: As in a request.
            listener: Called with each event.
            options: Other fields of :class:`JobRequest` (``threads``, ``overwrite``, ``task``, …).
        """
        job = JobFolder(folder)
        job.path.mkdir(parents=True, exist_ok=True)
        job.put_back()
        request = JobRequest(**{"task": "library", "device": device, **options})
        return cls(job, request, listener=listener)

    @property
    def folder(self) -> Path:
        """The job folder."""
        return self.job.path

    @property
    def scratch(self) -> Path:
        """Folder for intermediate files; goes with the job folder."""
        return self.job.scratch

    @property
    def provenance(self) -> dict[str, Any]:
        """The request as JSON for the attributes of results: no times, no host, no destination."""
        return self.request.provenance()

    @functools.cached_property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``. Imports torch unless the request says ``cpu``.

        Raises:
            UserError: when the device that was asked for is not there.
        """
        device = resolve_device(self.request.device)
        if self.request.device == "auto" and device == "cpu" and (reason := _gpu_trouble()):
            self.warn(f"the GPU cannot be used ({reason}): the CPU computes")
        return device

    @property
    def shared(self) -> bool:
        """Whether other processes or machines do blocks."""
        return self.request.scheduler is not None or (self.request.workers or 1) > 1

    @contextlib.contextmanager
    def crew(self) -> Iterator[Crew | None]:
        """The workers that were asked for, or none: this process does the blocks.

        Raises:
            UserError: they cannot be had.
        """
        if not self.shared:
            yield None
            return
        from connectoscope.blockwise.crew import LOCAL, Crew

        with Crew(self.request.scheduler or LOCAL, self.request.workers or 1) as crew:
            yield crew

    @property
    def may_overwrite(self) -> bool:
        """Whether what is at a destination that is written at the very end may go: asked for, or it is this run's own."""
        return self.request.overwrite or self.job.writing_path.exists()

    def write_now(self) -> None:
        """From here on what is at the destination is this run's, should it end before it has told so."""
        self.job.writing_path.touch()

    @contextlib.contextmanager
    def replacing(self, *places: Path) -> Iterator[None]:
        """What is at ``places`` is overwritten: gone once some blocks are done, back where the run ends before.

        Raises:
            UserError: it cannot be moved.
        """
        if found := [path for path in places if os.path.lexists(path)]:
            set_aside(self.job.replaced_path, found)
        try:
            yield
        except BaseException:
            self.job.put_back()
            raise
        drop(self.job.replaced_path)

    def phases(self, **weights: float) -> None:
        """Name the phases to come, in order, with their share of the time, which ``fraction`` adds up."""
        total = sum(weights.values())
        start = 0.0
        for name, weight in weights.items():
            self._shares[name] = (start, weight / total)
            start += weight / total

    def progress(self, done: int, total: int, phase: str, **extra: Any) -> None:
        """``done`` of ``total`` blocks (or steps) of ``phase``; call as often as you like.

        Args:
            extra: Further facts for watchers, for example ``megavoxels_per_second``; ``fraction`` and
                ``seconds_left`` override what is derived here.
        """
        if done > 1 or done == total:  # of some tasks the first is being written
            drop(self.job.replaced_path)
        start, share = self._shares.get(phase, (0.0, 1.0))
        fraction = extra.pop("fraction", start + share * (done / total if total else 1.0))
        facts = {"done": done, "total": total, "phase": phase, "fraction": round(fraction, 5), **extra}
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_SECONDS:
            self._held_back = {"seconds_left": None, **facts}
            return
        self._last_progress = now
        self._held_back = None
        self._events.write("progress", **{"seconds_left": self._seconds_left(fraction, now), **facts})

    def flush_progress(self) -> None:
        """Write the last progress that was held back; the end of a run does."""
        if self._held_back is not None:
            self._events.write("progress", **self._held_back)
            self._held_back = None

    def log(self, text: str) -> None:
        """A line for the log."""
        self._events.write("log", message=text)

    def warn(self, text: str) -> None:
        """A line that the user must see; the same one is told once, and again in the summary."""
        if text not in self.warnings:
            self.warnings.append(text)
            self._events.write("warning", message=text)

    def result(self, kind: str, path: Path | str, name: str, **facts: Any) -> None:
        """An output that can be opened from now on, even while it grows.

        Args:
            kind: ``image``, ``labels``, ``points``, ``table``, ``scores``, ``plan``, ``model``, ``ranking`` or
                ``patches``.
            path: File or folder.
            name: Name for people.
            facts: What the kind needs (image: ``channels``; plan: ``text``, ``table``, ``task``, ``parameters``).
        """
        self._events.write("result", kind=kind, path=str(Path(path).absolute()), name=name, **facts)

    def metric(self, name: str, step: int, values: Mapping[str, float]) -> None:
        """One point of the training curves of the plot ``name``."""
        self._events.write("metric", name=name, step=step, values=dict(values))

    def plot(
        self,
        name: str,
        series: Mapping[str, Any],
        *,
        x: str = "",
        y: str = "",
        marked: Mapping[str, tuple[float, float]] = _NONE,
    ) -> None:
        """A whole plot; one of the same name takes its place.

        Args:
            name: Title.
            series: Numbers, or (x, y) pairs, by label. A series whose x runs to and fro is drawn as points.
            x: Title of the horizontal axis.
            y: Title of the vertical axis.
            marked: Points that stand out, by label: drawn as stars.
        """
        self._events.write("plot", name=name, x=x, y=y, marked=dict(marked), series=dict(series))

    def check_cancelled(self) -> None:
        """Raises Cancelled when the user asked to stop; call between blocks."""
        if self.job.cancel_path.exists():
            raise Cancelled("cancelled; what was finished is kept")

    def _seconds_left(self, fraction: float, now: float) -> float | None:
        self._samples.append((now, fraction))
        while now - self._samples[0][0] > RATE_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        begin, first = self._samples[0]
        if now - begin < RATE_AFTER_SECONDS or fraction <= first:
            return None
        return round((1 - fraction) * (now - begin) / (fraction - first), 1)


def resolve_device(device: Device) -> str:
    """The device that ``device`` means here; ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        UserError: when there is none of the kind asked for.
    """
    if device == "cpu":
        return "cpu"
    import torch

    found = {
        "cuda": torch.cuda.is_available() and not _gpu_trouble(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return next((name for name, there in found.items() if there), "cpu")
    if not found[device]:
        name = {"cuda": "CUDA device (NVIDIA GPU)", "mps": "MPS device (Apple GPU)"}[device]
        reason = _gpu_trouble() if device == "cuda" else ""
        found_here = f"that can be used was found here ({reason})" if reason else "was found here"
        raise UserError(f"no {name} {found_here}; use --device auto or --device cpu")
    return device


def _gpu_trouble() -> str:
    """Why torch cannot compute on the NVIDIA GPU that it sees, as where this build has no code for it; "" where it can."""
    import torch

    try:
        if torch.cuda.is_available():
            (torch.zeros(1, device="cuda") + 1).item()
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(
            error
        ):  # it is there, and full just now: the run meets that itself, and can be resumed
            return ""
        return str(error).partition("\n")[0] or type(error).__name__
    return ""


def threads_of(request: JobRequest) -> int:
    """As asked for, else all cores: shared by the workers of this machine, one less in the background, for the window."""
    if request.threads is not None:
        return request.threads
    workers = (request.workers or 1) if request.scheduler in (None, "local") else 1
    return max(1, (cores() - request.background) // workers)
