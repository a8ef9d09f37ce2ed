"""The calibration of xray2em-fib and the scores on its card, made again from its weights.

    python recipes/calibrate_xray2em.py            say them
    python recipes/calibrate_xray2em.py --write    put them on the card

A training by the recipe ends with the same steps. Needs the data sets (docs/data.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from connectoscope.training.recipe import load_recipe
from connectoscope.xray2em.calibration import NOMINAL
from connectoscope.xray2em.finish import SIDE, calibrated, reported
from connectoscope.xray2em.pairs import main_scan
from connectoscope.xray2em.predict import load_network
from connectoscope.xray2em.training import XrayTrainer, scored_scans
from connectoscope.zoo import find_model
from connectoscope.zoo.writing import write_card

MODEL = "xray2em-fib"
COMMAND = "python recipes/calibrate_xray2em.py"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put them on the card of the bundled model")
    asked = parser.parse_args()
    recipe = load_recipe(Path(__file__).with_name(f"{MODEL}.toml"))
    if recipe.xray is None:
        raise ValueError(f"{MODEL}.toml is no recipe for X-ray to EM")
    model = find_model(MODEL)
    network = load_network(model)
    scans = XrayTrainer(recipe, recipe.xray, "cpu")
    found = calibrated(network, scans.pairs("choose", scored_scans(scans), SIDE), "cpu")
    scored = [main_scan(recipe.xray, scans.voxel_nm)]
    scores, observed = reported(network, scans.pairs("report", scored), found["scale"], "cpu")
    rounded = {name: round(value, 4) for name, value in scores.items()}
    sys.stdout.write(json.dumps({**found, **rounded}, indent=1) + "\n")
    if asked.write:
        reliability = {"split": "report", "nominal": NOMINAL.round(2).tolist(), "observed": observed}
        changed = {
            "calibration": {**(model.card.calibration or {}), **found, "reliability": reliability},
            "scores": tuple(
                s.model_copy(update={"value": rounded[s.metric], "command": COMMAND})
                for s in model.card.scores
            ),
        }
        write_card(model.path, model.card.model_copy(update=changed))


if __name__ == "__main__":
    main()
