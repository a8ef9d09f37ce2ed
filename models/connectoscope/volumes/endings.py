"""Endings of the names of volumes, for dialogs and short names. What is in a file is told by its first bytes."""

from __future__ import annotations

FOLDER_ENDINGS = (".zarr", ".n5", ".precomputed")
FILE_ENDINGS = (
    ".tif", ".tiff", ".btf", ".h5", ".hdf5", ".hdf", ".ims", ".npy", ".mrc", ".mrcs", ".map", ".rec", ".st", ".ali", ".nrrd",
    ".nhdr", ".nii", ".nii.gz",
)  # fmt: skip
"""Endings that only volumes have."""
OTHER_ENDINGS = (".xml", ".png", ".jpg", ".jpeg")
"""Endings that volumes may have, among much else."""
ENDINGS = (".ome", ".gz", *FILE_ENDINGS, *OTHER_ENDINGS, *FOLDER_ENDINGS)


def short_name(path: str) -> str:
    """The last part of a path or URL without the endings of image formats."""
    name = path.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1]
    while True:
        stem = name
        for ending in ENDINGS:
            if stem.lower().endswith(ending) and len(stem) > len(ending):
                stem = stem[: -len(ending)]
        if stem == name:
            return name
        name = stem
