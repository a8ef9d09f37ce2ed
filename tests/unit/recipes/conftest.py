"""Recipes, studies and benchmarks are scripts: their folders are put on the path, as when they run."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
for folder in ("recipes", "studies", "tests/benchmarks"):
    sys.path.append(str(ROOT / folder))
