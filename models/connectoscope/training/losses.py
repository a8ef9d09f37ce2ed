"""Losses on logits ``(B, C, Z, Y, X)`` against labels of 0 and 1 of the same shape."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def bce_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy plus 1 - soft Dice a channel (over the batch), averaged over channels; a scalar."""
    bce = F.binary_cross_entropy_with_logits(logits, labels)
    p = logits.sigmoid()
    axes = (0, 2, 3, 4)
    dice = (2 * (p * labels).sum(axes) + 1.0) / (p.sum(axes) + labels.sum(axes) + 1.0)
    return bce + 0.5 * (1 - dice).mean()
