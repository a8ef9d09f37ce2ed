"""The state of a fine-tuning: that of any training, and the scores on the patches that were held back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from connectoscope.training.checkpoint import check_same, read_state, restore, save_state


def save(
    path: Path,
    identity: Mapping[str, str],
    stage: int,
    step: int,
    table: NDArray[np.int64],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that an exact resume needs; patches are drawn from stage and step, so there is no random state."""
    facts = {"identity": json.dumps(identity), "stage": str(stage), "step": str(step)}
    save_state(path, facts, network, optimizer, {"table": torch.from_numpy(table)})


def load(
    path: Path, identity: Mapping[str, str], network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, int, NDArray[np.int64]]:
    """Restore network and optimizer; give stage, step and table.

    Raises:
        UserError: when the file is damaged, or something that decides the result changed since.
    """
    facts, tensors = read_state(path)
    check_same(path, facts["identity"], identity)
    restore(tensors, network, optimizer)
    return int(facts["stage"]), int(facts["step"]), tensors["table"].numpy()
