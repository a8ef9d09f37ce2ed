"""Four labelled patches and the nearest model, or none of it? ``make study-adaptation``, or ``python studies/adaptation.py``.

Three sources (membrane-vnc, membrane-isbi, neurons-fib) on four targets, never a source on its own set, and neurons-fib on
isotropic sets only, since it refuses thick sections: as they are, with new statistics, and fine-tuned on four patches that
``adapt suggest`` chose; from scratch is the same architecture with the same patches and as many updates. Nothing is held
back while training, so that both get the same. Thresholds come from the
choosing parts, scores are of the reporting parts, the splits are those of docs/data.md. Also: sources on shifted targets,
rules of choosing patches, and whether MMD² tells beforehand. Each run is one process on one core, kept with what made it
in ``studies/results/adaptation``; delete its file to run it again. Writes docs/studies/neuroadda.md. Needs the data sets.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from adaptation_report import report
from kept import digest, keep, made, make
from scipy import ndimage

from connectoscope.adaptation.examples import make_examples
from connectoscope.adaptation.features import sample_patches, sees
from connectoscope.adaptation.finetune import FineTuning, TuningSchedule, new_statistics
from connectoscope.adaptation.labels import output_index, read_labels
from connectoscope.adaptation.patches import Patch, read_patches
from connectoscope.adaptation.signature import COMMON
from connectoscope.jobs.context import Context
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.tasks.adapt import rank, suggest
from connectoscope.tasks.evaluate import Evaluate
from connectoscope.tasks.evaluate import run as evaluate
from connectoscope.tasks.segment import Segment
from connectoscope.tasks.segment import run as segment
from connectoscope.training.labels import boundaries
from connectoscope.training.recipe import data_folder
from connectoscope.volumes import Volume, open_volume
from connectoscope.volumes.geometry import parse_box
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.writing import write_bundle

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "studies" / "results" / "adaptation"
WORK = ROOT / "build" / "studies" / "adaptation"
SOURCES = {"membrane-vnc": "vnc_sstem", "membrane-isbi": "isbi2012", "neurons-fib": "fib_medulla"}
STEPS = 150  # updates, the default of adapt train
RATES = {"four": 3e-4, "scratch": 2e-3}  # the defaults of adapt train, and of the recipes
SEEDS = range(3)
RULES = ("random", "highest", "top-median", "k-centre")  # beside median-mean
JOINED = (64, 96, 128, 160, 192)  # thresholds of neurons, of which the choosing part takes one
SHIFTS = ("contrast", "blur", "noise", "coarse")


@dataclass(frozen=True)
class Target:
    """A data set; ranges are planes, half-open."""

    name: str
    labels: str
    train: tuple[int, int]
    choose: tuple[int, int]
    report: tuple[int, int]
    instances: bool

    @property
    def raw(self) -> Path:
        return data_folder() / self.name / "raw.ome.tif"

    @property
    def truth(self) -> Path:
        return data_folder() / self.name / self.labels

    def box(self, planes: tuple[int, int]) -> str:
        _, y, x = open_volume(self.raw).shape
        return f"{planes[0]}:{planes[1]},0:{y},0:{x}"


TARGETS = {
    t.name: t
    for t in (
        Target("vnc_sstem", "membranes_labels.ome.tif", (0, 11), (11, 13), (13, 15), instances=False),
        Target("isbi2012", "membrane_labels.ome.tif", (0, 16), (16, 19), (19, 22), instances=False),
        Target("fib_medulla", "neuron_labels.ome.tif", (0, 110), (114, 130), (134, 170), instances=True),
        Target("fib_medulla_small", "neuron_labels.ome.tif", (0, 30), (30, 35), (35, 50), instances=True),
    )
}


@dataclass(frozen=True)
class Run:
    """``way``: zero, statistics, four, scratch, a rule of choosing, or the name of a shift (with the source as it is)."""

    target: str
    source: str
    way: str
    seed: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        return (self.target, self.source, self.way, str(self.seed))

    @property
    def path(self) -> Path:
        return RESULTS / ("--".join(self.words) + ".json")


def pairs() -> list[tuple[str, str]]:
    return [(t, s) for t in TARGETS for s in SOURCES if is_a_pair(t, s)]


def is_a_pair(target: str, source: str) -> bool:
    """Not its own set; and a network of cubes of 10 nm refuses sections of 50 nm."""
    return SOURCES[source] != target and (source != "neurons-fib" or TARGETS[target].instances)


def ranks() -> list[Run]:
    """Distances: of every target, and of every target shifted."""
    return [Run(t, "all", way) for t in TARGETS for way in ("rank", *(f"rank-{s}" for s in SHIFTS))]


def nearest(target: str) -> str:
    """The source of the smallest MMD² among those that make a pair with the target."""
    models = json.loads(Run(target, "all", "rank").path.read_text(encoding="utf-8"))["models"]
    return next(m["model"] for m in models if is_a_pair(target, m["model"]))


def runs() -> list[Run]:
    """All scores, the most telling first."""
    close = [(t, nearest(t)) for t in TARGETS]
    first = [Run(t, s, way, seed) for t, s in close for way in ("four", "scratch") for seed in SEEDS]
    zero = [Run(t, s, way) for t, s in pairs() for way in ("zero", "statistics")]
    others = [Run(t, s, "four", seed) for t, s in pairs() if (t, s) not in close for seed in SEEDS]
    shifted = [Run(t, s, shift) for t, s in pairs() for shift in SHIFTS]
    rules = [Run(t, s, rule, seed) for t, s in close[:2] for rule in RULES for seed in SEEDS]
    return [*first, *zero, *shifted, *others, *rules]


def sources() -> dict[str, str]:
    """What decides the results besides the code: the models with their signatures, settings, and what a membrane is."""
    models = {name: find_model(name) for name in (*SOURCES, COMMON)}
    settings = repr((STEPS, RATES, JOINED, TARGETS))
    return {
        **{name: digest(model.hash, repr(model.card.files)) for name, model in models.items()},
        "settings": digest(settings, inspect.getsource(membrane_truth), inspect.getsource(boundaries)),
    }


def measure(run: Run) -> dict[str, Any]:
    torch.set_num_threads(1)
    target = TARGETS[run.target]
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        if run.way.startswith("rank"):
            return distances(target, run.way.partition("-")[2], Path(folder))
        raw = shifted(target, run.way, Path(folder)) if run.way in SHIFTS else target.raw
        model = model_of(run, target, Path(folder))
        found = {"membranes": membranes(model, target, raw, Path(folder))}
        if target.instances:
            found["neurons"] = neurons(model, target, raw, Path(folder))
        return found


def distances(target: Target, shift: str, folder: Path) -> dict[str, Any]:
    raw = shifted(target, shift, folder) if shift else target.raw
    asked = rank.AdaptRank(source=str(raw), model=tuple(SOURCES), box=target.box(target.train))
    return {"models": rank.run(asked, Context.local(folder / "rank.job", threads=1))["models"]}


def model_of(run: Run, target: Target, folder: Path) -> Bundle:
    """The model of a run."""
    source = find_model(run.source)
    if run.way == "zero" or run.way in SHIFTS:
        return source
    volume = open_volume(target.raw)
    grid = sees(source.card, volume)
    part = grid.box_from_level(parse_box(target.box(target.train)), 0)
    unlabelled = sample_patches(grid, source.card, 64, run.seed, part)
    network: UNet3d = source.load_network()
    if run.way == "statistics":
        network = new_statistics(network, unlabelled, "cpu")
    else:
        rule = run.way if run.way in RULES else "median-mean"
        patches = chosen(source, target, rule, run.seed, folder)
        masks = read_labels(membrane_truth(target, folder), patches, volume, instances=False)
        boxes = [p.voxels for p in patches]
        channel = output_index(source.card, "boundary")
        scratch = run.way == "scratch"
        if scratch:
            torch.manual_seed(run.seed)
            network = UNet3d(UNet3dArguments.parse(source.card.architecture.arguments))
        kind = FromScratch if scratch else FineTuning
        plan = TuningSchedule(STEPS, RATES["scratch" if scratch else "four"], run.seed)
        examples = make_examples(grid, source.card, boxes, masks)
        tuning = kind(network, examples, channel, unlabelled, plan, "cpu", {"the study": "study"})
        tuning.folds = 0  # nothing is held back: all get all the updates
        network = tuning.run(folder / "checkpoint", lambda stage, step, values: None).network
        if scratch:
            network = new_statistics(network, unlabelled, "cpu")
    card = source.card.model_copy(update={"name": "made", "signature": None, "companion": None})
    return write_bundle(folder / "made", card, network.state_dict())


class FromScratch(FineTuning):
    """Its batch norm has nothing to keep, so it learns as in any training."""

    def _train_mode(self, network: UNet3d) -> None:
        network.train()


def chosen(source: Bundle, target: Target, rule: str, seed: int, folder: Path) -> tuple[Patch, ...]:
    out = folder / "patches.json"
    asked = suggest.AdaptSuggest(
        source=str(target.raw),
        destination=str(out),
        model=str(source.path),
        target=("membranes",),
        n=4,
        rule=rule,  # type: ignore[arg-type]
        seed=seed,
        box=target.box(target.train),
    )
    suggest.run(asked, Context.local(folder / "suggest.job", threads=1))
    return read_patches(out).patches


def membranes(model: Bundle, target: Target, raw: Path, folder: Path) -> dict[str, Any]:
    """F1 of membranes on the reporting part, at the threshold that was best on the choosing part."""
    truth = membrane_truth(target, folder)

    def scores(planes: tuple[int, int], threshold: int | None) -> dict[str, Any]:
        return score(model, target, raw, truth, planes, "membranes", threshold, folder)

    threshold = max(int(scores(target.choose, None)["best_threshold"]), 1)
    found = scores(target.report, threshold)
    return {"threshold": threshold, **{k: found[k] for k in ("f1", "best_f1", "average_precision")}}


def neurons(model: Bundle, target: Target, raw: Path, folder: Path) -> dict[str, Any]:
    """Variation of information on the reporting part, joined as was best on the choosing part."""

    def scores(planes: tuple[int, int], threshold: int) -> dict[str, Any]:
        return score(model, target, raw, target.truth, planes, "neurons", threshold, folder)

    tried = {threshold: scores(target.choose, threshold)["vi"] for threshold in JOINED}
    threshold = min(tried, key=lambda t: (tried[t], t))
    found = scores(target.report, threshold)
    return {"threshold": threshold, **{k: found[k] for k in ("vi", "vi_split", "vi_merge", "arand")}}


def score(
    model: Bundle,
    target: Target,
    raw: Path,
    truth: Path,
    planes: tuple[int, int],
    what: str,
    threshold: int | None,
    folder: Path,
) -> dict[str, Any]:
    box = target.box(planes)
    out = folder / "found.ome.zarr"
    asked = Segment(
        source=str(raw),
        destination=str(out),
        model=str(model.path),
        target=(what,),
        threshold=threshold,
        voxel_size=voxel_size(open_volume(target.raw)),
        box=box,
    )
    with tempfile.TemporaryDirectory(dir=folder) as job:
        segment(asked, Context.local(Path(job), threads=1, overwrite=True))
        return evaluate(
            Evaluate(result=str(out), truth=str(truth), target=what, box=box), Context.local(Path(job) / "e")
        )


def voxel_size(volume: Volume) -> str:
    return ",".join(f"{size:g}" for size in volume.voxel_size_nm()) + "nm"


def membrane_truth(target: Target, folder: Path) -> Path:
    """The mask of membranes that patches are labelled by and scores are of, one for both."""
    if not target.instances:
        return target.truth
    path = folder / "boundary.ome.tif"
    if not path.exists():
        volume = open_volume(target.truth)
        # As neurons-fib was taught, 0 one more label. In fib_medulla 0 is a corner that nobody labelled. In fib_medulla_small it
        # is a line of one voxel along membranes that are dark as far as two voxels from it: were 0 the membrane itself, as it is
        # to "adapt train --instances", most of every membrane would be the inside of a neuron.
        mask = boundaries(np.asarray(volume.read(parse_box(target.box((0, volume.shape[0]))))))
        save(path, mask.astype(np.uint8), volume)
    return path


def shifted(target: Target, shift: str, folder: Path) -> Path:
    """The target as another microscope might have shown it; voxels stay where they are."""
    path = folder / "raw.ome.tif"
    volume = open_volume(target.raw)
    x = np.asarray(volume.read(parse_box(target.box((0, volume.shape[0]))))).astype(np.float32)
    flat = (0, 2, 2) if volume.voxel_size_nm()[0] > 2 * volume.voxel_size_nm()[2] else (2, 2, 2)
    if shift == "contrast":
        x = 255 * (x / 255) ** 2.5
    elif shift == "blur":
        x = ndimage.gaussian_filter(x, flat)
    elif shift == "noise":
        x = x + np.random.default_rng(0).normal(0, 40, x.shape).astype(np.float32)
    else:  # pixels of twice the size, interpolated back
        z, y, w = x.shape
        coarse = x[:, : y // 2 * 2, : w // 2 * 2].reshape(z, y // 2, 2, w // 2, 2).mean((2, 4))
        x = ndimage.zoom(
            coarse, (1, y / coarse.shape[1], w / coarse.shape[2]), order=1, grid_mode=True, mode="nearest"
        )
    save(path, np.clip(np.rint(x), 0, 255).astype(np.uint8), volume)
    return path


def save(path: Path, array: np.ndarray, like: Volume) -> None:
    sizes = {f"PhysicalSize{a}": s for a, s in zip("ZYX", like.voxel_size_nm(), strict=True)}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
    tifffile.imwrite(path, array, metadata={"axes": "ZYX", **sizes, **units}, ome=True)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=4, metavar=("TARGET", "SOURCE", "WAY", "SEED"), help="this run alone")
    parser.add_argument("--report", action="store_true", help="only write the page from what was kept")
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if asked.run:
        target, source, way, seed = asked.run
        run = Run(target, source, way, int(seed))
        keep(run.path, {**made(sources()), **measure(run)})
        return
    if not asked.report:
        for stage in (ranks, runs):
            make(__file__, [run.words for run in stage() if not run.path.exists()])
    missing = sum(not run.path.exists() for run in (*ranks(), *runs()))
    page = ROOT / "docs" / "studies" / "neuroadda.md"
    close = {t: nearest(t) for t in TARGETS}
    page.write_text(report(RESULTS, close, SOURCES, missing, sources()), encoding="utf-8")


if __name__ == "__main__":
    main()
