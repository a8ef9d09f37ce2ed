"""Scores of the bundled models on the reporting planes of their recipes, by the commands that users have.

Runs ``connectoscope segment`` on the whole volume of the recipe with the shipped file, ``connectoscope evaluate`` on
the reporting planes for each output, and writes the figures on the card, with the command that gives them again. The seconds
of a pruned model's receipt are measured again, too.

    make scores                      all bundled models
    python recipes/score_models.py synapse-vnc
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from connectoscope.errors import UserError
from connectoscope.jobs.memory import keep_freed_memory
from connectoscope.networks.predictor import choose_tile
from connectoscope.pruning.receipt import seconds_per_megavoxel
from connectoscope.pruning.run import TIMED
from connectoscope.segmentation.targets import shown
from connectoscope.training.recipe import Recipe, TrainingVolume, find_data
from connectoscope.volumes import open_volume
from connectoscope.zoo import Bundle, Card, find_model
from connectoscope.zoo.card import Score
from connectoscope.zoo.places import bundled_models
from connectoscope.zoo.writing import write_card


def command(*words: object) -> dict[str, Any]:
    """Run a connectoscope command with --json and give its summary."""
    line = [sys.executable, "-m", "connectoscope", *map(str, words), "--json"]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=True, text=True)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def score(bundle: Bundle, folder: Path) -> list[Score]:
    """Figures of one model on the reporting planes of its volumes."""
    recipe = Recipe.model_validate(bundle.card.training["recipe"])
    scores = []
    for entry in recipe.volumes:
        result = folder / f"{entry.name}.ome.zarr"
        raw = find_data(entry.raw, entry.published)
        if any(output.name in entry.labels for output in recipe.outputs):
            command("segment", raw, result, "--model", bundle.path)
        segmented = f"connectoscope segment {entry.raw} RESULT --model {bundle.card.name}"
        _, rows, columns = open_volume(raw).shape
        box = f"{entry.report[0]}:{entry.report[1]},0:{rows},0:{columns}"
        for output in recipe.outputs:
            if output.name not in entry.labels:  # derived from instances: there is no file to compare with
                continue
            target = shown(output.name)
            truth = find_data(entry.labels[output.name], entry.published)
            found = command("evaluate", result, truth, "--target", target, "--box", box)
            line = f"{segmented} && connectoscope evaluate RESULT {entry.labels[output.name]} --target {target} --box {box}"
            figures = {name: found[name] for name in ("average_precision", "best_f1", "f1")}
            if output.instances:
                names = ("object_f1", "object_tp", "object_fp", "object_fn")
                figures |= {name: found[name] for name in names}
            for metric, value in figures.items():
                sys.stdout.write(f"{bundle.card.name} {entry.name} {target} {metric} {value:.4f}\n")
                scores.append(
                    Score(
                        metric=f"{output.name} {metric}",
                        value=round(value, 4),
                        data=entry.name,
                        split="report",
                        command=line,
                    )
                )
        if recipe.neurons is not None:
            scores += score_neurons(bundle, entry, box, folder)
    return scores


def score_neurons(bundle: Bundle, entry: TrainingVolume, box: str, folder: Path) -> list[Score]:
    """Of the reporting planes alone, so that no other plane helps to keep neurons apart or together; and of the whole
    volume, where neurons that other planes join count as one.
    """
    raw = find_data(entry.raw, entry.published)
    truth = find_data(entry.labels["neuron"], entry.published)
    scores = []
    for of, cut in (("", ("--box", box)), (", made in the whole volume", ())):
        result = folder / f"{entry.name}-neurons{len(scores)}.ome.zarr"
        command("segment", raw, result, "--model", bundle.path, "--target", "neurons", *cut)
        found = command("evaluate", result, truth, "--target", "neurons", "--box", box)
        made = " ".join(
            ["connectoscope segment", entry.raw, "RESULT --model", bundle.card.name, "--target neurons", *cut]
        )
        line = (
            f"{made} && connectoscope evaluate RESULT {entry.labels['neuron']} --target neurons --box {box}"
        )
        for metric in ("vi", "vi_split", "vi_merge", "arand"):
            sys.stdout.write(f"{bundle.card.name} {entry.name} neurons {metric}{of} {found[metric]:.4f}\n")
            scores.append(
                Score(
                    metric=f"neurons {metric}{of}",
                    value=round(found[metric], 4),
                    data=entry.name,
                    split="report",
                    command=line,
                )
            )
    return scores


def timed_again(card: Card) -> Card:
    """The seconds of a pruned model's receipt, on this machine as it is now: training leaves it busy."""
    if not card.lineage or "receipt" not in card.lineage[-1]:
        return card
    step = json.loads(json.dumps(card.lineage[-1]))
    try:
        parent = find_model(step["parent"]["name"])
    except UserError:
        return card
    if parent.hash != step["parent"]["hash"]:
        return card  # the model of that name is another one by now
    for side, name in (("before", step["parent"]["name"]), ("after", card.name)):
        model = find_model(name)
        tile = choose_tile(TIMED, model.card.halo.practical, model.card.stride)
        seconds = seconds_per_megavoxel(model.load_network(), tile, "cpu")
        step["receipt"][side]["seconds_per_megavoxel"] = round(seconds, 4)
        sys.stdout.write(f"{name} seconds per megavoxel {seconds:.3f}\n")
    return card.model_copy(update={"lineage": (*card.lineage[:-1], step)})


def main() -> None:
    keep_freed_memory()  # as the engine's process does, whose seconds are on the receipt
    names = sys.argv[1:] or sorted(path.name for path in bundled_models().iterdir() if path.is_dir())
    for name in names:
        bundle = find_model(name)
        if bundle.card.reconstructs:  # scored when it is trained, with its calibration
            continue
        with tempfile.TemporaryDirectory() as folder:
            scores = score(bundle, Path(folder))
        kept = tuple(s for s in bundle.card.scores if s.split != "report")
        card = bundle.card.model_copy(update={"scores": kept + tuple(scores)})
        write_card(bundle.path, timed_again(card))


if __name__ == "__main__":
    main()
