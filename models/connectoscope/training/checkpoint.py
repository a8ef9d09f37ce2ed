"""Checkpoints: safetensors and JSON, written to one side and renamed, so that a kill leaves the last one whole."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from connectoscope.errors import UserError


@dataclass
class Progress:
    """Where a training stands besides its tensors."""

    step: int = 0
    seconds: float = 0.0
    best_score: float = -math.inf  # scores may be log likelihoods
    best_step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    def after(self, before: Progress) -> Progress:
        """Both as one training, of which this is the second part; its best counts."""
        moved = [row | {"step": row["step"] + before.step} for row in self.curve]
        return Progress(
            before.step + self.step,
            before.seconds + self.seconds,
            self.best_score,
            before.step + self.best_step,
            before.curve + moved,
        )


def digest(*arrays: NDArray[Any]) -> str:
    """Hash of arrays."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data.cast("B"))
    return total.hexdigest()


def check_same(path: Path, before: str, now: Mapping[str, str]) -> None:
    """Compare what a checkpoint was begun with (JSON) with what there is; the keys are for people ("the recipe").

    Raises:
        UserError: naming the first thing that differs: what comes after it may follow from it.
    """
    try:
        stored = json.loads(before)
    except ValueError:
        stored = None
    if not isinstance(stored, dict):
        raise UserError(
            f"checkpoint {path} was written by another version of Connectoscope, which cannot be gone on with: "
            "start over with --overwrite"
        )
    for name, value in now.items():
        if stored.get(name) != value:
            raise UserError(
                f"{name} changed since checkpoint {path} was written: put back what was there, "
                "or start over with --overwrite"
            )


def save_checkpoint(
    path: Path,
    signature: Mapping[str, str],
    progress: Progress,
    network: nn.Module,
    average: dict[str, Tensor],
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    pruning: dict[str, Tensor],
) -> None:
    """Write everything that an exact resume needs. Patches are drawn from the step, so there is no random state."""
    more = {f"average/{k}": v for k, v in average.items()}
    more |= {f"best/{k}": v for k, v in best.items()}
    more |= {f"pruning/{k}": v for k, v in pruning.items()}
    save_state(
        path,
        {"signature": json.dumps(signature), "progress": json.dumps(vars(progress))},
        network,
        optimizer,
        more,
    )


def load_checkpoint(
    path: Path, signature: Mapping[str, str], network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Restore network and optimizer; give progress, averaged weights, the best ones, and what pruning knows.

    Raises:
        UserError: when the file is damaged, or something that decides the result changed since.
    """
    facts, tensors = read_state(path)
    check_same(path, facts["signature"], signature)
    restore(tensors, network, optimizer)
    average, best, pruning = (_part(tensors, name) for name in ("average", "best", "pruning"))
    return Progress(**json.loads(facts["progress"])), average, best, pruning


def save_state(
    path: Path,
    facts: dict[str, str],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    more: dict[str, Tensor],
) -> None:
    """One safetensors file of network, optimizer, ``more`` tensors and ``facts``; all of it or none."""
    tensors: dict[str, Tensor] = {f"network/{k}": v for k, v in network.state_dict().items()} | more
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part, metadata=facts)
    part.replace(path)


def read_state(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Facts and tensors of :func:`save_state`.

    Raises:
        UserError: when the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); start over with --overwrite") from None


def restore(tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Network and optimizer as they were saved."""
    network.load_state_dict(_part(tensors, "network"))
    state = optimizer.state_dict()
    for key, value in _part(tensors, "optimizer").items():
        index, _, name = key.partition("/")
        state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(name + "/"): v for k, v in tensors.items() if k.startswith(name + "/")}
