"""Which outputs of a model become objects, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectoscope.errors import UserError
from connectoscope.segmentation.neurons.evidence import NEURONS, Evidence, choose_evidence
from connectoscope.zoo.card import Neurons

if TYPE_CHECKING:
    from connectoscope.zoo import Card

SHOWN_AS = {"boundary": "membranes"}
"""Outputs that people know by another name."""


@dataclass(frozen=True)
class Target:
    """One output that becomes objects: foreground is ``>= threshold`` (uint8), objects have ``min_volume_nm3``.

    ``neurons`` are made of several outputs, their ``evidence``; the threshold is that of their agglomeration.
    """

    name: str
    channel: int
    threshold: int
    min_volume_nm3: float
    evidence: Evidence | None = None


def choose_targets(
    card: Card, names: tuple[str, ...], threshold: int | None, min_volume: float | None
) -> tuple[list[Target], list[str]]:
    """Targets in the order of the card, and warnings about names of which no objects are made.

    Args:
        names: As people give them; empty: every output of which the model makes objects.
        threshold, min_volume: In place of the card's.

    Raises:
        UserError: the model has no output of that name, or none that neurons are made of.
    """
    outputs = {output.name: output for output in card.outputs}
    own = {shown: name for name, shown in SHOWN_AS.items() if name in outputs}
    given = [own.get(name, name) for name in names if name != NEURONS]
    wanted = given if names else [o.name for o in card.outputs if o.instances]
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        made = [NEURONS] if _makes_neurons(card) else []
        there = ", ".join([*(SHOWN_AS.get(name, name) for name in outputs), *made])
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
    if NEURONS in names:
        evidence, usual = choose_evidence(card), card.neurons or Neurons()
        targets.append(
            Target(
                NEURONS,
                evidence.channels[0],
                usual.threshold if threshold is None else threshold,
                usual.min_volume_nm3 if min_volume is None else min_volume,
                evidence,
            )
        )
    return targets, warnings


def _makes_neurons(card: Card) -> bool:
    try:
        choose_evidence(card)
    except UserError:
        return False
    return True
