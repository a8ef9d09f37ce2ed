"""From a filled form to a started job. All of it can be slow, so it runs in a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectoscope.errors import UserError
from connectoscope.jobs.folder import JobFolder
from connectoscope.jobs.request import JobRequest
from connectoscope.tasks.base import Task
from connectoscope.volumes.geometry import Box, parse_box
from napari_connectoscope import jobs
from napari_connectoscope.sources import LayerSnapshot, agreeing_source, spill

SPILLED = "source.ome.zarr"
"""Name of the copy of a layer in its job folder."""


@dataclass(frozen=True)
class Submission:
    """A task with its values, and the layer that is its source where that is a stranger's or only in memory."""

    task: Task
    values: Mapping[str, Any]
    image: LayerSnapshot | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def box(self) -> Box | None:
        text = self.values.get("box")
        return parse_box(text) if text else None

    @property
    def spilled_bytes(self) -> int:
        """What a copy of the layer takes, uncompressed; 0 where none is needed for sure."""
        return self.image.nbytes(self.box) if self.image is not None else 0

    def run(self, progress: Callable[[int, int], None] = lambda done, total: None) -> JobFolder:
        """Start the job; a layer is read from its own file where the pixels agree, else it is copied first.

        Args:
            progress: Of the copy: pieces done, their total; may raise to stop.

        Raises:
            UserError: whatever is wrong with the values, the place or the layer.
        """
        values = self._of_file()
        if values is None and self.image is not None:
            return self._run_on_copy(self.image, progress)
        return jobs.submit(self.task.name, values or {}, **self.options)

    def check(self) -> JobFolder:
        """Start the task that says what this one will need; see :attr:`Task.preflight`.

        Raises:
            UserError: whatever is wrong with the values or the place, or the layer has no file.
        """
        values = self._of_file()
        if values is None:
            raise UserError(
                "the layer is only in memory: save it to a file to check, or run (it is copied first)"
            )
        return jobs.submit(self.task.preflight or "", values, **{**self.options, "overwrite": True})

    def _of_file(self) -> dict[str, Any] | None:
        """The values, with the file that the layer is of; None where there is none."""
        if self.image is None:
            return dict(self.values)
        found = agreeing_source(self.image)
        if found is None:
            return None
        named = {self.task.source_voxel_size if k == "voxel_size" else k: v for k, v in found.items()}
        return {**self.values, **{name: value for name, value in named.items() if name in self.values}}

    def _run_on_copy(self, image: LayerSnapshot, progress: Callable[[int, int], None]) -> JobFolder:
        # The copy is the box, at its own place in the world, with the channel, time and voxel size of the layer.
        taken = ("box", self.task.source_voxel_size, "channel", "time")
        values = {**self.values, **{name: None for name in taken if name in self.values}}
        destination = JobRequest.make(self.task, {**values, self.task.source: SPILLED}).destination
        if destination is None:
            folder, path = jobs.create_of_copy(self.task.name, values, SPILLED, **self.options)
        else:  # its job folder may be there already, and has to be known again
            path = Path(f"{destination}.job") / SPILLED
            folder = jobs.create(self.task.name, {**values, self.task.source: str(path)}, **self.options)
        begun = folder.has_begun()
        try:
            spill(image, self.box, path, progress)
            jobs.start(folder)
        except BaseException:
            if not begun:  # nothing is left behind of a job that never was
                folder.remove()
            raise
        return folder
