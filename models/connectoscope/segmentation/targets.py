"""Which outputs of a model become objects, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectoscope.errors import UserError

if TYPE_CHECKING:
    from connectoscope.zoo import Card

SHOWN_AS = {"boundary": "membranes"}
"""Outputs that people know by another name."""


@dataclass(frozen=True)
class Target:
    """One output that becomes objects: foreground is ``>= threshold`` (uint8), objects have ``min_volume_nm3``."""

    name: str
    channel: int
    threshold: int
    min_volume_nm3: float


def choose_targets(
    card: Card, names: tuple[str, ...], threshold: int | None, min_volume: float | None
) -> tuple[list[Target], list[str]]:
    """Targets in the order of the card, and warnings about names of which no objects are made.

    Args:
        names: As people give them; empty: every output of which the model makes objects.
        threshold, min_volume: In place of the card's.

    Raises:
        UserError: the model has no output of that name.
    """
    outputs = {output.name: output for output in card.outputs}
    own = {shown: name for name, shown in SHOWN_AS.items() if name in outputs}
    wanted = [own.get(name, name) for name in names] or [o.name for o in card.outputs if o.instances]
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        there = ", ".join(SHOWN_AS.get(name, name) for name in outputs)
        raise UserError(f"model '{card.name}' has no target '{unknown[0]}'; it has {there}")
    warnings = [
        f"{SHOWN_AS.get(name, name)}: probabilities only, the model makes no objects of them"
        for name in dict.fromkeys(wanted)
        if not outputs[name].instances
    ]
    targets = [
        Target(
            output.name,
            channel,
            output.threshold if threshold is None else threshold,
            output.min_volume_nm3 if min_volume is None else min_volume,
        )
        for channel, output in enumerate(card.outputs)
        if output.name in wanted and output.instances
    ]
    return targets, warnings
