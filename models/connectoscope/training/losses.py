"""Losses on logits ``(B, C, Z, Y, X)`` against labels of 0 and 1 of the same shape."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def bce_dice(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Binary cross-entropy plus ``weight`` times (1 - soft Dice of each channel over the batch), averaged; a scalar."""
    bce = F.binary_cross_entropy_with_logits(logits, labels)
    p = logits.sigmoid()
    axes = (0, 2, 3, 4)
    dice = (2 * (p * labels).sum(axes) + 1.0) / (p.sum(axes) + labels.sum(axes) + 1.0)
    return bce + weight * (1 - dice).mean()
