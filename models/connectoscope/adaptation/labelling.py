"""Patches on their way to labels: a file for each in one folder, and which of them are done.

``adapt suggest`` puts the model's own answers there, a person corrects them, ``adapt train`` reads them. Every file is
written whole or not at all, so that whatever ends the program leaves labels that can be trained on::

    raw.patches.json      the patches
    raw.labels/           the labels of the patches, ID.tif each; of several outputs: a folder for each
        done.patches.json those of the patches that are done: what is trained on
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from connectoscope.adaptation.patches import Patch, PatchFile, PatchSource, read_patches
from connectoscope.blockwise.destination import write_file
from connectoscope.errors import UserError
from connectoscope.segmentation.targets import shown
from connectoscope.volumes import open_volume
from connectoscope.volumes.geometry import Box, sizes_text, unit_symbol

Labels = NDArray[np.integer[Any]]
DONE = "done.patches.json"
_ENDING = ".patches.json"


def labels_folder(patches: Path) -> Path:
    """Where the labels of a file of patches lie if nothing else is said: ``raw.patches.json`` -> ``raw.labels``."""
    return patches.with_name(patches.name.removesuffix(".json").removesuffix(".patches") + ".labels")


def folder_of(folder: Path, output: str, outputs: tuple[str, ...]) -> Path:
    """The folder of the labels of one output: one of its own where there are several."""
    return folder / output if len(outputs) > 1 else folder


def write_labels(path: Path, labels: Labels, source: PatchSource) -> None:
    """Labels (z, y, x) of a patch as TIFF with the voxel size of its volume; whole or not at all, durable on return."""
    facts: dict[str, Any] = {"axes": "ZYX"}
    if source.voxel_size is not None and source.unit is not None:
        for axis, size in zip("ZYX", source.voxel_size, strict=True):
            facts |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit_symbol(source.unit)}
    file = io.BytesIO()
    tifffile.imwrite(file, labels, metadata=facts, ome=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, file.getvalue())


class Labelling:
    """The labels of a file of patches.

    Args:
        patches: A file of ``adapt suggest``.

    Raises:
        UserError: it cannot be read, or is no such file.
    """

    def __init__(self, patches: Path) -> None:
        self.path = patches
        self.file: PatchFile = read_patches(patches)
        self.folder = labels_folder(patches) if self.file.labels is None else Path(self.file.labels)
        self.outputs = self.file.outputs or (self.file.target or "labels",)
        self._one = threading.Lock()
        self._saved: dict[tuple[str, str], Labels] = {}  # what is on the disk

    def place(self, output: str, patch: str) -> Path:
        return self._folder(output) / f"{patch}.tif"

    def read(self, output: str, patch: Patch) -> Labels:
        """Labels of a patch, (z, y, x) uint8 or uint16; nothing where there are none yet.

        Raises:
            UserError: what is there cannot be read, or is not of this patch.
        """
        shape, path = patch.voxels.shape, self.place(output, patch.id)
        if not path.exists():
            return np.zeros(shape, np.uint16 if self.file.instances else np.uint8)
        labels = open_volume(path)
        if labels.shape != shape or labels.dtype.kind != "u":
            raise UserError(f"{path} holds no labels of {patch.id} ({sizes_text(shape)} voxels)")
        array = labels.read(Box.of(shape))
        self._saved[output, patch.id] = array.copy()
        return array

    def is_saved(self, output: str, patch: str, labels: Labels) -> bool:
        """Whether these are the labels on the disk; compared, so that every way to edit them is seen."""
        saved = self._saved.get((output, patch))
        return saved is not None and np.array_equal(saved, labels)

    def save(self, output: str, patch: str, labels: Labels) -> None:
        """Save the labels of a patch as they are when its turn comes, unless they are saved. From any thread."""
        with self._one:  # the last one to write has the newest labels
            now = labels.copy()
            if not self.is_saved(output, patch, now):
                write_labels(self.place(output, patch), now, self.file.source)
                self._saved[output, patch] = now

    def done(self, output: str) -> set[str]:
        """Which patches are done."""
        path = self._folder(output) / DONE
        return {patch.id for patch in read_patches(path).patches} if path.exists() else set()

    def set_done(self, output: str, ids: set[str]) -> None:
        """Note which patches are done."""
        path = self._folder(output) / DONE
        chosen = tuple(patch for patch in self.file.patches if patch.id in ids)
        if not chosen:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        file = self.file.model_copy(update={"patches": chosen})
        write_file(path, file.model_dump_json(by_alias=True, indent=1).encode())

    def training(self, output: str) -> dict[str, Any]:
        """Parameters of ``adapt train`` on the patches that are done."""
        return {
            "model": self.file.model.get("reference", self.file.model.get("name", "")),
            "on": self.file.source.path,
            "patches": str(self._folder(output) / DONE),
            "labels": str(self._folder(output)),
            "target": () if output == "labels" else (shown(output),),
            "instances": self.file.instances,
        }

    def _folder(self, output: str) -> Path:
        return folder_of(self.folder, output, self.outputs)


def is_patches(path: Path) -> bool:
    """Whether a file is called as those of ``adapt suggest`` are."""
    return path.name.endswith(_ENDING)
