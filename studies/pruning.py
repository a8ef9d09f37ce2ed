"""Does pruning by activity keep more than its rivals? ``make study-pruning``, or ``python studies/pruning.py``.

Synapses in ``vnc_sstem`` at 18.4 nm per pixel, three folds by sections (0-4, 5-9, 10-14 held out in turn), the set-up of
``recipes/study-pruning.toml``. All networks get the same updates; those that are pruned share the dense warm-up of their
fold and seed; magnitude and RigL keep the share of the connections of every layer that SP-in does. Each run is one
process on one core, kept in ``studies/results/pruning`` and not repeated; delete its file to run it again. Writes
docs/studies/budgeted_broadcast.md. Needs the data sets (docs/data.md).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import keep, made, make, of_recipe
from pruning_report import report
from pruning_scores import candidates, objects
from safetensors.torch import load_file, save_file

from connectoscope.evaluation.voxels import histograms, precision_recall
from connectoscope.networks.compact import compacted
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import wiring_of
from connectoscope.pruning.balance import coding_entropy
from connectoscope.pruning.pruner import Pruner, Rule, Schedule
from connectoscope.pruning.rates import OnRates, watching_likeness
from connectoscope.pruning.receipt import macs, weights_kept
from connectoscope.pruning.recipes import of_widths, shortened
from connectoscope.training.recipe import Recipe, load_recipe
from connectoscope.training.sampler import LabelledVolume, load_volume
from connectoscope.training.trainer import Trainer, predict_planes

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
from peer_torch_pruning import channels_of_greatest_magnitude  # noqa: E402

RECIPE = ROOT / "recipes" / "study-pruning.toml"
SOURCES = {"recipe": of_recipe(RECIPE)}
RESULTS = ROOT / "studies" / "results" / "pruning"
WORK = ROOT / "build" / "studies" / "pruning"
FOLDS = ((0, 5), (5, 10), (10, 15))
CHOOSING = 3  # index of the split that β is chosen on: trained on 0-10, scored on 11-12
HALVED = (
    2  # in y and x, of the recipe's 9.2 nm: the network sees more of the tissue, and is better than at 9.2 nm
)
WARM = 400  # updates that dense and pruned networks share
MORE = (
    320  # updates of a finished network while it is pruned, two fifths of its training, as synapse-vnc-bb got
)
EVERY = 40  # updates between refreshes; the first one comes when on-rates have been watched for as many


@dataclass(frozen=True)
class Arm:
    """One way to come by a network.

    Attributes:
        beta: Multiple of 4 / D; None: the one of :data:`BETAS` that was best on the choosing sections.
        rule: None: dense, or narrow where ``density`` says of which density it has the multiplications.
        structured: Whole channels go.
        taught: Half of what it learns are the probabilities of the dense network of its fold and seed.
        library: Whole channels are taken by torch-pruning (magnitude of groups), at once after the warm-up.
        finished: Whole channels are taken as ``prune`` does it, of the finished dense network, which teaches: :data:`MORE`
            updates more than the others get.
        longer: Gets as many updates as those that are pruned when they are finished.
    """

    name: str
    density: float = 1.0
    rule: Rule | None = None
    actuator: str = "out"
    beta: float | None = None
    structured: bool = False
    taught: bool = False
    library: bool = False
    finished: bool = False
    longer: bool = False


def unstructured(density: float) -> list[Arm]:
    return [
        Arm(f"bb-in-{density}", density, "budgeted-broadcast", "in"),
        Arm(f"bb-out-{density}", density, "budgeted-broadcast", "out"),
        Arm(f"magnitude-{density}", density, "magnitude"),
        Arm(f"shuffled-{density}", density, "shuffled", "out"),
        Arm(f"rigl-{density}", density, "rigl"),
    ]


BETAS = (0.5, 1.0, 2.0, 4.0)  # flatter than the specification's 2, too: at low densities 4 / D is steep
DENSE = Arm("dense")
CHANNELS = 0.25  # density of whole channels, as of synapse-vnc-bb: half of them
ARMS = {
    arm.name: arm
    for arm in (
        DENSE,
        *unstructured(0.3),
        *unstructured(0.1),
        Arm("wide"),
        Arm("narrow-0.3", 0.3),
        Arm("narrow-0.1", 0.1),
        Arm("narrow-channels", CHANNELS),
        Arm("library", CHANNELS, library=True),
        Arm("channels", CHANNELS, "budgeted-broadcast", structured=True),
        Arm("channels-taught", CHANNELS, "budgeted-broadcast", structured=True, taught=True),
        Arm("channels-finished", CHANNELS, "budgeted-broadcast", structured=True, finished=True),
        Arm("narrow-channels-longer", CHANNELS, longer=True),
        *(
            Arm(f"beta-{actuator}-{density}-{beta}", density, "budgeted-broadcast", actuator, beta)
            for density in (0.3, 0.1)
            for actuator in ("in", "out")
            for beta in BETAS
        ),
    )
}
REPEATED = (
    "dense",
    "bb-in-0.3",
    "bb-out-0.3",
    "magnitude-0.3",
    "channels-finished",
    "narrow-channels-longer",
)


@dataclass(frozen=True)
class Run:
    arm: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-fold{self.fold}-seed{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / f"{self.name}.json"


def choices() -> list[Run]:
    """What is tried on the choosing sections, before all else."""
    return [Run(name, CHOOSING, 0) for name in ARMS if name.startswith(("dense", "beta", "wide"))]


def core() -> list[Run]:
    """All other runs. Fold i has seed i; the repeated arms also have the two other seeds."""
    names = [name for name in ARMS if not name.startswith(("beta", "wide"))]
    first = [Run(name, fold, fold) for name in names for fold in range(3)]
    again = [Run(name, fold, (fold + k) % 3) for k in (1, 2) for name in REPEATED for fold in range(3)]
    return [*first, *again]


def chosen_beta(arm: Arm) -> float | None:
    """The multiple of 4 / D whose network had the highest average precision of synapses on the choosing sections.

    None for arms that no balance decides.
    """
    if arm.beta is not None or arm.structured or arm.rule not in ("budgeted-broadcast", "shuffled"):
        return arm.beta

    def score(beta: float) -> float:
        path = Run(f"beta-{arm.actuator}-{arm.density}-{beta}", CHOOSING, 0).path
        inside, outside = map(
            np.array, json.loads(path.read_text(encoding="utf-8"))["histograms"]["synapses"]
        )
        return precision_recall(inside, outside).average_precision

    return max(BETAS, key=score)


def is_kept(run: Run) -> bool:
    """Whether the run has been made, with the β that is chosen now."""
    return run.path.exists() and json.loads(run.path.read_text(encoding="utf-8")).get("beta") == chosen_beta(
        ARMS[run.arm]
    )


def held_out(fold: int) -> tuple[int, int]:
    return FOLDS[fold] if fold < CHOOSING else (11, 13)


def volumes_of(recipe: Recipe, fold: int) -> list[LabelledVolume]:
    """The volume at half the recipe's resolution, once for each range of training sections; "choose" is what is held out."""
    whole = load_volume(recipe, recipe.volumes[0])
    z, y, x = whole.image.shape
    y, x = y // HALVED, x // HALVED
    image = np.ascontiguousarray(whole.image.reshape(z, y, HALVED, x, HALVED).mean((2, 4)))
    labels = (whole.labels.reshape(-1, z, y, HALVED, x, HALVED).mean((3, 5)) >= 0.5).astype(np.uint8)
    low, high = held_out(fold)
    ranges = [r for r in ((0, low), (high, z)) if r[0] < r[1]] if fold < CHOOSING else [(0, 11)]
    return [
        LabelledVolume(image, labels, whole.split.model_copy(update={"train": r, "choose": (low, high)}))
        for r in ranges
    ]


def recipe_of(run: Run) -> Recipe:
    recipe = load_recipe(RECIPE)
    arm = ARMS[run.arm]
    arguments = UNet3dArguments.parse(recipe.architecture.arguments)
    if arm.name.startswith("narrow"):
        arguments = narrow(arguments, arm.density)
    if arm.name == "wide":
        arguments = replace(arguments, features=tuple(f * 3 // 2 for f in arguments.features))
    architecture = recipe.architecture.model_copy(update={"arguments": arguments.to_json()})
    steps = recipe.training.steps + (MORE if arm.longer else 0)
    training = recipe.training.model_copy(update={"steps": steps})
    return recipe.model_copy(update={"seed": run.seed, "architecture": architecture, "training": training})


def narrow(arguments: UNet3dArguments, density: float) -> UNet3dArguments:
    """The dense network of as many multiplications as one has whose prunable connections have that density."""
    layers = wiring_of(arguments).layers
    fixed = macs(arguments) - macs(arguments, {n.weight: _ones(n) * (not n.prunable) for n in layers})
    wanted = macs(arguments) - (1 - density) * fixed
    first = arguments.features[0]
    shares = np.arange(1, 64 * first + 1) / (64 * first)
    every = {tuple(max(round(share * f), 1) for f in arguments.features) for share in shares}
    choices = [replace(arguments, features=features) for features in every]
    return min(choices, key=lambda a: abs(macs(a) - wanted))


def _ones(layer: Any) -> torch.Tensor:
    return torch.ones(layer.outputs, layer.inputs, 1, 1, 1)


def cached(what: str, run: Run) -> Path:
    """A network that runs of one fold and seed share, of the recipe of today."""
    return WORK / f"{what}-fold{run.fold}-seed{run.seed}-{SOURCES['recipe']}.safetensors"


class _Warm(Exception):
    """The shared part of the training is done."""


def warmed(run: Run, volumes: list[LabelledVolume], path: Path) -> Trainer:
    """The dense training of a fold and seed, at the end of its warm-up; from its file where there is one."""
    recipe = recipe_of(Run("dense", run.fold, run.seed))
    trainer = Trainer(recipe, volumes, "cpu")
    if not path.exists():

        def stop(step: int, values: dict[str, float]) -> None:
            if step == WARM and "choose/mean" in values:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.stem}-{os.getpid()}.safetensors")
                trainer.save(part)
                part.replace(path)
                raise _Warm

        try:
            trainer.run(path, stop)
        except _Warm:
            return warmed(run, volumes, path)
    trainer.resume(path)
    return trainer


def trained(run: Run, volumes: list[LabelledVolume]) -> tuple[UNet3d, Pruner | None]:
    """The network of a run, the averaged weights after the last update: nothing is chosen on what is held out."""
    arm = ARMS[run.arm]
    if arm.finished:
        return taken_of_finished(run, volumes), None
    if arm.name.startswith(("narrow", "wide")):
        trainer = Trainer(recipe_of(run), volumes, "cpu")
    else:
        trainer = warmed(run, volumes, cached("warm", run))
    if arm.library:
        trainer = cut_by_library(trainer, arm.density)
    steps = trainer.recipe.training.steps
    if arm.rule is not None:
        # Whole channels are chosen once, as `prune` does it, so that most updates are those of the small network.
        schedule = Schedule(steps, warm_up=WARM + EVERY, every=steps if arm.structured else EVERY)
        trainer.pruner = Pruner(
            trainer.network,
            schedule,
            arm.rule,
            arm.density,
            actuator=arm.actuator,  # type: ignore[arg-type]
            beta=chosen_beta(arm) or 1.0,
            structured=arm.structured,
            seed=run.seed,
        )
        trainer.pruner.check()
    if arm.taught:
        trainer.teacher = dense_network(run, volumes)
    network = last(trainer, run)
    return (compacted(network) if arm.structured else network), trainer.pruner


def last(trainer: Trainer, run: Run) -> UNet3d:
    """The network after the last update."""
    WORK.mkdir(parents=True, exist_ok=True)
    scratch = WORK / f"{run.name}.checkpoint"
    trainer.run(scratch, lambda step, values: None)
    scratch.unlink(missing_ok=True)
    trainer.best = trainer.average
    return trainer.finished_network(batches=32)


def taken_of_finished(run: Run, volumes: list[LabelledVolume]) -> UNet3d:
    """As ``prune`` makes it: a tenth of the updates under masks, the others of the small network, taught all the way."""
    arm, dense, recipe = ARMS[run.arm], dense_network(run, volumes), recipe_of(run)
    masked = MORE // 10
    trainer = Trainer(shortened(recipe, masked), volumes, "cpu", dense.state_dict())
    trainer.teacher = dense
    schedule = Schedule(masked, warm_up=masked // 6, every=masked)
    trainer.pruner = Pruner(
        trainer.network, schedule, "budgeted-broadcast", arm.density, structured=True, seed=run.seed
    )
    small = compacted(last(trainer, run))
    trainer = Trainer(shortened(of_widths(recipe, small), MORE - masked), volumes, "cpu", small.state_dict())
    trainer.teacher = dense
    return last(trainer, run)


def cut_by_library(trainer: Trainer, density: float) -> Trainer:
    """Goes on with the channels that torch-pruning leaves: of each layer the share √density."""
    small = channels_of_greatest_magnitude(trainer.network.eval(), 1 - density**0.5)
    architecture = trainer.recipe.architecture.model_copy(update={"arguments": small.arguments.to_json()})
    recipe = trainer.recipe.model_copy(update={"architecture": architecture})
    smaller = Trainer(recipe, trainer.volumes, "cpu", small.state_dict())
    smaller.progress = trainer.progress
    return smaller


def dense_network(run: Run, volumes: list[LabelledVolume]) -> UNet3d:
    """The dense network of the same fold and seed; trained again where its weights are not there."""
    path = cached("dense", run)
    network = UNet3d(UNet3dArguments.parse(load_recipe(RECIPE).architecture.arguments))
    if not path.exists():
        found, _ = trained(Run("dense", run.fold, run.seed), volumes)
        part = path.with_name(f"{path.name}-{os.getpid()}")
        save_file({k: v.contiguous().clone() for k, v in found.state_dict().items()}, part)
        part.replace(path)
    network.load_state_dict(load_file(path))
    return network.eval()


def measure(run: Run) -> dict[str, Any]:
    """Train, and score on what is held out."""
    torch.set_num_threads(1)
    volumes = volumes_of(recipe_of(run), run.fold)
    if run.arm == "dense":
        network, pruner = dense_network(run, volumes), None
    else:
        network, pruner = trained(run, volumes)
    low, high = held_out(run.fold)
    reach = network.arguments.halo()[0]
    first, last = max(low - reach, 0), min(high + reach, len(volumes[0].image))
    rates = OnRates(network)
    with rates.watching(), watching_likeness(network) as likeness:
        p = predict_planes(network, volumes[0].image[first:last], "cpu")[:, low - first : high - first]
    truth = volumes[0].labels[:, low:high] > 0
    kept, _ = weights_kept(network.arguments, network.state_dict())
    units = np.concatenate(list(rates.values().values()))
    found: dict[str, Any] = {
        "beta": chosen_beta(ARMS[run.arm]),
        "macs": round(macs(network.arguments, network.state_dict())),
        "weights": kept,
        "entropy": coding_entropy(units) / len(units),
        "likeness": float(np.mean(list(likeness.values()))),
        "histograms": {
            o.name: [h.tolist() for h in histograms(p[c], truth[c])]
            for c, o in enumerate(load_recipe(RECIPE).outputs)
        },
        "objects": objects(p[0], truth[0]),
        "candidates": candidates(p[0], truth[0]),
    }
    if pruner is not None:
        found["layers"] = {name: float(mask.float().mean()) for name, mask in pruner.masks.items()}
    return found


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", nargs=3, metavar=("ARM", "FOLD", "SEED"), help="this run alone")
    parser.add_argument("--report", action="store_true", help="only write the page from what was kept")
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if asked.run:
        arm, fold, seed = asked.run
        run = Run(arm, int(fold), int(seed))
        keep(run.path, {**made(SOURCES), **measure(run)})
        return
    if not asked.report:
        for stage in (choices, core):
            make(__file__, [(r.arm, str(r.fold), str(r.seed)) for r in stage() if not is_kept(r)])
    page = ROOT / "docs" / "studies" / "budgeted_broadcast.md"
    page.write_text(
        report(RESULTS, {r.name: (r.arm, r.fold, r.seed) for r in (*core(), *choices())}, page, SOURCES),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
