"""How neurons are made of what neurons-fib says: fragments and thresholds, scored on the choosing planes of its recipe.

    python recipes/choose_neurons.py                                      the table of docs/models.md
    python recipes/choose_neurons.py --planes 134:170 boundary:136        one way on other planes

Needs the data sets (docs/data.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from score_models import command

from connectoscope.training.recipe import Recipe, find_data
from connectoscope.volumes import open_volume
from connectoscope.zoo import Bundle, find_model
from connectoscope.zoo.writing import write_bundle

MODEL = "neurons-fib"
WAYS = (
    *(f"boundary:{threshold}" for threshold in (96, 112, 128, 136, 144, 160, 176)),
    *(f"affinities:{threshold}" for threshold in (128, 136, 144)),
)


def variant(model: Bundle, fragments: str, folder: Path) -> Bundle:
    """The model with fragments of another kind."""
    if model.card.neurons is None:
        raise ValueError(f"{model.card.name} makes no neurons")
    neurons = model.card.neurons.model_copy(update={"fragments": fragments})
    changed = {"name": fragments, "neurons": neurons, "signature": None}
    return write_bundle(
        folder / fragments, model.card.model_copy(update=changed), model.load_network().state_dict()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--planes", help="first:end; default: the choosing planes")
    parser.add_argument("ways", nargs="*", default=WAYS, metavar="FRAGMENTS:THRESHOLD")
    asked = parser.parse_args()
    model = find_model(MODEL)
    entry = Recipe.model_validate(model.card.training["recipe"]).volumes[0]
    raw = find_data(entry.raw, entry.published)
    truth = find_data(entry.labels["neuron"], entry.published)
    _, rows, columns = open_volume(raw).shape
    planes = asked.planes or f"{entry.choose[0]}:{entry.choose[1]}"
    box = f"{planes},0:{rows},0:{columns}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "neurons.ome.zarr"
        made: dict[str, Bundle] = {}
        for way in asked.ways:
            fragments, _, threshold = way.partition(":")
            if fragments not in made:
                made[fragments] = variant(model, fragments, Path(folder))
            command(
                "segment", raw, out, "--model", made[fragments].path, "--target", "neurons",
                "--threshold", threshold, "--box", box, "--overwrite",
            )  # fmt: skip
            found = command("evaluate", out, truth, "--target", "neurons", "--box", box)
            sys.stdout.write(
                f"{fragments:<10} {threshold:>4} VI {found['vi']:.3f} ARAND {found['arand']:.3f}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
