"""The whole road from a model to a smaller one: training with masks, compaction, more training, receipt, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from connectoscope.blockwise.destination import check_writable, write_file
from connectoscope.errors import UserError
from connectoscope.networks.compact import compacted
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.predictor import choose_tile
from connectoscope.networks.unet3d import UNet3d
from connectoscope.pruning.pruner import Pruner, Schedule
from connectoscope.pruning.rates import OnRates, watching_likeness
from connectoscope.pruning.receipt import figures, rows, verdict
from connectoscope.pruning.recipes import of_model, of_widths, shortened
from connectoscope.pruning.report import report_html
from connectoscope.training.checkpoint import Progress
from connectoscope.training.finish import as_shipped, finish
from connectoscope.training.recipe import Recipe, load_recipe
from connectoscope.training.sampler import LabelledVolume, load_volume
from connectoscope.training.trainer import Trainer, score_planes
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.writing import check_new

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.prune import Prune

TIMED = (64, 1024, 1024)  # voxels of the volume whose tile is timed for the receipt


def prune(parameters: Prune, context: Context) -> dict[str, Any]:
    """Check everything, train on with masks, compact, measure before and after, write the bundle; a summary.

    Raises:
        UserError: destination exists, recipe and model do not go together, or the density cannot be reached.
    """
    out = Path(parameters.destination)
    check_new(out, replace=context.may_overwrite)
    page = None if parameters.report is None else Path(parameters.report)
    if page is not None:
        check_writable(page)
        if page.exists() and not context.may_overwrite:
            raise UserError(f"{page} exists; choose another name for the report, or --overwrite")
    bundle = find_model(parameters.model)
    if out.resolve() == bundle.path.resolve():
        raise UserError(f"{out} is the model itself, which is never changed; choose another name")
    parent = bundle.load_network()
    recipe = of_model(load_recipe(Path(parameters.data)), bundle, out.name, parameters.seed, context.warn)
    torch.set_num_threads(context.threads)
    volumes = [load_volume(recipe, entry) for entry in recipe.volumes]
    for volume in volumes:
        for text in volume.warnings:
            context.warn(text)
    pruning = _Pruning(parameters, context, bundle, parent, recipe, volumes)
    network, progress = pruning.run()
    receipt = _receipt(bundle, parent, network, recipe, volumes, context.device)
    context.write_now()
    made = finish(
        of_widths(pruning.trainer.recipe, network),  # as it ran, of whole channels the second part
        network,
        volumes,
        progress,
        out,
        context.device,
        _line(bundle.path.name, parameters),
        context.warn,
        (
            *bundle.card.lineage,
            {
                "made_by": "prune",
                "parent": {"name": bundle.path.name, "version": bundle.card.version, "hash": bundle.hash},
                **_asked(parameters),
                "receipt": receipt,
            },
        ),
    )
    if page is not None:
        pruner = pruning.pruner
        masks = {name: mask.cpu().numpy() for name, mask in pruner.masks.items()}
        title = f"{made.card.name}, pruned from {bundle.path.name}"
        rates = pruner.rates.values()
        text = report_html(title, _asked(parameters), rows(**receipt), pruner.wiring, masks, rates)
        write_file(page, text.encode())
    context.result(
        "model",
        made.path,
        made.card.name,
        text=verdict(**receipt),
        table=rows(**receipt),
        task="segment",
        parameters={"model": made.reference},
    )
    return {
        "task": "prune",
        "model": str(made.path),
        "steps": progress.step,
        "chosen_step": progress.best_step,
        "receipt": receipt,
        "warnings": context.warnings,
    }


class _Pruning:
    """The training: with masks, and of whole channels afterwards that of the small network alone.

    Attributes:
        trainer: Of the part that runs.
        pruner: Chooses the masks.
    """

    def __init__(
        self,
        parameters: Prune,
        context: Context,
        bundle: Bundle,
        parent: UNet3d,
        recipe: Recipe,
        volumes: list[LabelledVolume],
    ) -> None:
        self.context, self.recipe, self.volumes = context, recipe, volumes
        self.steps, self.parent_hash = parameters.steps, bundle.hash
        self.structured = parameters.structured
        # Whole channels are chosen early, and once, so that most updates are those of the small network, which is fast.
        self.masked = max(self.steps // 10, 20) if self.structured else self.steps
        folded = fold_batch_norm(parent)
        self.teacher = folded.to(context.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.trainer = self._trainer(shortened(recipe, self.masked), parent)
        every = self.masked if self.structured else max(min(100, self.masked // 6), 1)
        self.pruner = self.trainer.pruner = Pruner(
            self.trainer.network,
            Schedule(self.masked, warm_up=max(self.masked // 6, 1), every=every),
            parameters.rule,
            parameters.density,
            actuator=parameters.actuator,
            structured=self.structured,
            seed=parameters.seed,
        )
        self.pruner.check()

    def run(self) -> tuple[UNet3d, Progress]:
        """The network as it will ship; goes on from the job's checkpoints."""
        self._train("checkpoint", 0)
        network, progress = compacted(as_shipped(self.trainer.finished_network())), self.trainer.progress
        if self.structured:
            small = shortened(of_widths(self.recipe, network), self.steps - self.masked)
            self.trainer = self._trainer(small, network)
            self._train("compacted", self.masked)
            network = as_shipped(self.trainer.finished_network())
            progress = self.trainer.progress.after(progress)
        return network, progress

    def _trainer(self, recipe: Recipe, network: UNet3d) -> Trainer:
        """From the weights of ``network``, with the model as teacher."""
        state = network.state_dict()
        trainer = Trainer(recipe, self.volumes, self.context.device, state, self.parent_hash)
        trainer.teacher = self.teacher
        return trainer

    def _train(self, name: str, before: int) -> None:
        """To the last step, from the checkpoint of that name; ``before``: updates of the part before."""
        context, trainer = self.context, self.trainer
        checkpoint = context.scratch / f"{name}.safetensors"
        if checkpoint.exists():
            trainer.resume(checkpoint)
            context.log(f"goes on from step {before + trainer.progress.step}")

        def report(step: int, values: dict[str, float]) -> None:
            chosen = {k.removeprefix("choose/"): v for k, v in values.items() if k.startswith("choose/")}
            if chosen:
                context.metric("accuracy on the choosing planes", before + step, chosen)
                units: dict[str, Any] = self.pruner.balance()
                context.plot("balance", units, x="log((1 − a) / a)", y="fan-out")
            else:
                context.metric("loss", before + step, values)
                context.metric("units", before + step, self.pruner.figures())
            context.progress(before + step, self.steps, "pruning")
            context.check_cancelled()

        trainer.run(checkpoint, report)


def _receipt(
    bundle: Bundle,
    parent: UNet3d,
    network: UNet3d,
    recipe: Recipe,
    volumes: list[LabelledVolume],
    device: str,
) -> dict[str, Any]:
    """What both are, ``before`` and ``after``, on the choosing planes."""
    tile = choose_tile(TIMED, bundle.card.halo.practical, bundle.card.stride)
    sides = {}
    for name, side in (("before", parent), ("after", network)):
        side.to(device)
        rates = OnRates(side)
        with rates.watching(), watching_likeness(side) as likeness:
            curves = score_planes(side, recipe, volumes, "choose", device)
        sides[name] = figures(side, curves, rates.values(), likeness, tile, device)
    return sides


def _asked(parameters: Prune, *, exclude_defaults: bool = False) -> dict[str, Any]:
    """What was asked, as far as it has a part in the result."""
    unused = set() if parameters.limits_activity else {"actuator"}
    return parameters.model_dump(
        exclude={"destination", "model", "data", "report", *unused}, exclude_defaults=exclude_defaults
    )


def _line(model: str, parameters: Prune) -> str:
    """The command for the card; the recipe and the new model lie elsewhere on every machine."""
    chosen = _asked(parameters, exclude_defaults=True)
    chosen.pop("structured", None)
    words = [f"--{name} {value}" for name, value in chosen.items()] + ["--structured"] * parameters.structured
    return " ".join([f"connectoscope prune {model} OUT --data RECIPE", *words])
