"""Prints the development requirements of pyproject.toml, for a pip that does not know dependency groups."""

import sys
import tomllib
from pathlib import Path

with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
    sys.stdout.write("\n".join(tomllib.load(file)["dependency-groups"]["dev"]) + "\n")
