"""The state of a fine-tuning: safetensors, written to one side and renamed, so that a kill leaves the last one whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from connectoscope.errors import UserError


def save_state(
    path: Path,
    identity: str,
    stage: int,
    step: int,
    table: NDArray[np.int64],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write everything that an exact resume needs; patches are drawn from stage and step, so there is no random state."""
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
    tensors["table"] = torch.from_numpy(table)
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    facts = {"identity": identity, "stage": str(stage), "step": str(step)}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part, metadata=facts)
    part.replace(path)


def load_state(
    path: Path, identity: str, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, int, NDArray[np.int64]]:
    """Restore network and optimizer; give stage, step and table.

    Raises:
        UserError: when the file is damaged, or is of another request.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); start anew with --overwrite") from None
    if facts["identity"] != identity:
        raise UserError(f"checkpoint {path} is of another model or other labels; start anew with --overwrite")
    network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network/")})
    state = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    return int(facts["stage"]), int(facts["step"]), tensors["table"].numpy()
