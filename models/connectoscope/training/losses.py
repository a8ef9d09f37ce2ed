"""Losses on logits ``(B, C, Z, Y, X)`` against labels of 0 and 1 (below 0: unknown) of the same shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from connectoscope.errors import UserError

SURE = 40.0  # a logit whose loss and gradient are 0 in float32


def leave_out(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels where nothing is learned from labels below 0: they count as 0 and as surely found."""
    known = labels >= 0
    return torch.where(known, logits, -SURE), torch.where(known, labels, 0.0)


def check_finite(loss: Tensor, gradient: Tensor, update: int) -> float:
    """The loss of an update, before it is made; ``gradient`` is the norm over all weights.

    Raises:
        UserError: one of them is not finite: all weights would become not-a-numbers.
    """
    value = float(loss.detach())
    if not (math.isfinite(value) and math.isfinite(float(gradient))):
        raise UserError(
            f"the loss is no finite number at update {update}: take a smaller learning rate, "
            "and check the data (connectoscope info)"
        )
    return value


def bce_dice(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Binary cross-entropy plus ``weight`` times (1 - soft Dice of each channel over the batch), averaged; a scalar."""
    bce = F.binary_cross_entropy_with_logits(logits, labels)
    p = logits.sigmoid()
    axes = (0, 2, 3, 4)
    dice = (2 * (p * labels).sum(axes) + 1.0) / (p.sum(axes) + labels.sum(axes) + 1.0)
    return bce + weight * (1 - dice).mean()
