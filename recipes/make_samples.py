"""Cut the bundled samples (``sample:NAME``) from the full sets, into resources/connectoscope_resources/samples.

Run from the root of the repository: ``python recipes/make_samples.py``, with names for some of them. The full sets are
found through ``CONNECTOSCOPE_DATA`` (default ``../shared/data``). Samples come from the parts that models are chosen and reported
on, never from what they are trained on. Each keeps its place in the set it was cut from (its translation).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from connectoscope.errors import UserError
from connectoscope.jobs.context import Context
from connectoscope.tasks.simulate_xray import SimulateXray
from connectoscope.tasks.simulate_xray import run as simulate
from connectoscope.volumes import (
    ImageSpec,
    add_labels_group_entry,
    create_image,
    downsample,
    open_volume,
    pyramid_factors,
    set_attributes,
)
from connectoscope.volumes.geometry import Box, parse_box

SAMPLES = Path(__file__).parent.parent / "resources" / "connectoscope_resources" / "samples"
log = logging.getLogger("make_samples")


@dataclass(frozen=True)
class Sample:
    """A crop of a set, and the names of its ground truth: {file's label: our name}."""

    name: str
    title: str
    folder: str
    box: Box
    labels: dict[str, str]
    source: str
    citation: str
    licence: str


SPECIMENS = (
    Sample(
        name="vnc",
        title="Fly larva nerve cord, ssTEM",
        folder="vnc_sstem",
        box=parse_box(
            "11:15,480:992,0:512"
        ),  # four of the seven synapses of the reporting sections 13 and 14
        labels={"synapses": "synapses", "mitochondria": "mitochondria", "membranes": "membranes"},
        source="https://doi.org/10.6084/m9.figshare.856713 (stack 1)",
        citation="Gerhard S, Funke J, Martel J, Cardona A, Fetter R (2013). Segmented anisotropic ssTEM dataset of "
        "neural tissue. figshare 856713.",
        licence="CC-BY-NC-SA-3.0",
    ),
    Sample(
        name="fib",
        title="Adult fly medulla, FIB-SEM",
        folder="fib_medulla",
        box=parse_box("134:170,32:224,32:224"),
        labels={"neuron": "neurons"},
        source="https://github.com/janelia-flyem/neuroproof_examples (training_sample2)",
        citation="Janelia FlyEM, neuroproof_examples.",
        licence="CC-BY-3.0",
    ),
    Sample(
        name="lightsheet",
        title="Mouse brain cells, light sheet",
        folder="lightsheet_cells",
        box=parse_box("10:20,240:496,64:320"),
        labels={},
        source="https://github.com/brainglobe/cellfinder (test data)",
        citation="Tyson AL et al. (2021). A deep learning algorithm for 3D cell detection in whole mouse brain image "
        "datasets. PLoS Comput Biol 17(5): e1009074.",
        licence="BSD-3-Clause",
    ),
)


XNH = Sample(
    name="xnh",
    title="Fly medulla as X-ray nano-tomography (simulated)",
    folder="fib_medulla_large",
    box=parse_box("330:378,66:450,66:450"),  # whole voxels of 30 nm within the reporting planes
    labels={},
    source="https://github.com/janelia-flyem/neuroproof_examples (validation_sample)",
    citation="Janelia FlyEM, neuroproof_examples. The X-ray volume is simulated from it.",
    licence="CC-BY-3.0",
)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = Path(os.environ.get("CONNECTOSCOPE_DATA", "../shared/data"))
    wanted = set(sys.argv[1:])
    try:
        for sample in SPECIMENS:
            if not wanted or sample.name in wanted:
                make(sample, data / sample.folder)
        if not wanted or XNH.name in wanted:
            make_xnh(data / XNH.folder)
    except UserError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


def about(sample: Sample) -> dict:
    """The attributes that say what a sample is and where it comes from."""
    return {
        "sample": {
            "title": sample.title,
            "source": sample.source,
            "citation": sample.citation,
            "licence": sample.licence,
            "cut": f"{sample.folder} z,y,x {sample.box}",
        }
    }


def make_xnh(folder: Path) -> None:
    """Simulate one by the wave model, with its defaults."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "xnh.ome.zarr"
        asked = SimulateXray(source=str(folder / "raw.ome.tif"), destination=str(made), box=str(XNH.box))
        summary = simulate(asked, Context.local(Path(scratch) / "job"))
        root = SAMPLES / made.name
        shutil.rmtree(root, ignore_errors=True)
        shutil.move(made, root)
    set_attributes(root, **about(XNH))
    metadata = json.loads((root / "zarr.json").read_text(encoding="utf-8"))
    for key in ("signature", "request"):  # they name a place on this machine; "sample" says where it is from
        del metadata["attributes"]["connectoscope"][key]
    (root / "zarr.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    log.info(
        "%s: %s", root, {key: summary[key] for key in ("angles", "resolution_nm", "resolution_known_nm")}
    )


def make(sample: Sample, folder: Path) -> None:
    """Cut one sample and its ground truth."""
    root = SAMPLES / f"{sample.name}.ome.zarr"
    attributes = about(sample)
    _write(root, folder / "raw.ome.tif", sample, sample.title, attributes, is_labels=False)
    for theirs, ours in sample.labels.items():
        add_labels_group_entry(root, ours)
        truth = folder / f"{theirs}_labels.ome.tif"
        _write(root / "labels" / ours, truth, sample, ours, attributes, is_labels=True)
    size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    log.info("%s: %d files, %.2f MB", root, sum(p.is_file() for p in root.rglob("*")), size / 1e6)


def _write(root: Path, file: Path, sample: Sample, name: str, attributes: dict, *, is_labels: bool) -> None:
    volume = open_volume(file)
    pixels = volume.read(sample.box)
    level = volume.levels[0]
    place = tuple(t + s * i for t, s, i in zip(level.translation, level.scale, sample.box.start, strict=True))
    spec = ImageSpec(
        shape=sample.box.shape,
        dtype=pixels.dtype,
        scale=level.scale,
        translation=tuple(round(p, 6) for p in place),
        unit=volume.unit,
        chunks=(16, 128, 128),
        shards=(64, 512, 512),  # one file a level
        factors=pyramid_factors(sample.box.shape, level.scale),
        name=name,
        is_labels=is_labels,
    )
    for factor, store in zip(spec.factors, create_image(root, spec, overwrite=True), strict=True):
        store.write(np.ascontiguousarray(downsample(pixels, factor, labels=is_labels))).result()
    set_attributes(root, finished=True, **attributes)


if __name__ == "__main__":
    sys.exit(main())
