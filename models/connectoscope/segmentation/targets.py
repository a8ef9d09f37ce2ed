"""Which outputs of a model become objects, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectoscope.errors import UserError
from connectoscope.segmentation.neurons.evidence import NEURONS, Evidence, choose_evidence
from connectoscope.zoo.card import NeuronRule

if TYPE_CHECKING:
    from connectoscope.zoo import Card

FILLED = "neurons fill the volume, so there is nothing that a cascade could leave out"
_SHOWN_AS = {"boundary": "membranes"}
_OUTPUT_OF = {target: output for output, target in _SHOWN_AS.items()}


def shown(output: str) -> str:
    """An output by the name that people know it by, that of its target."""
    return _SHOWN_AS.get(output, output)


def output_of(target: str) -> str:
    """The output that a target's objects are made of; neurons are made of several."""
    return _OUTPUT_OF.get(target, target)


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
    given = [output_of(name) if output_of(name) in outputs else name for name in names if name != NEURONS]
    wanted = given if names else [o.name for o in card.outputs if o.instances]
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        made = [NEURONS] if _makes_neurons(card) else []
        there = ", ".join([*map(shown, outputs), *made])
        raise UserError(f"model '{card.name}' has no target '{unknown[0]}'; it has {there}")
    warnings = [
        f"{shown(name)}: probabilities only, the model makes no objects of them"
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
        evidence, usual = choose_evidence(card), card.neurons or NeuronRule()
        targets.append(
            Target(
                NEURONS,
                evidence.channels[0],
                usual.threshold if threshold is None else threshold,
                usual.min_volume_nm3 if min_volume is None else min_volume,
                evidence,
            )
        )
    if threshold is not None and not targets:
        warnings.append(
            "--threshold has no effect: nothing is made into objects; probabilities are kept as they are"
        )
    return targets, warnings


def _makes_neurons(card: Card) -> bool:
    try:
        choose_evidence(card)
    except UserError:
        return False
    return True
