"""What a segmentation is asked for, looked at before anything is written; ``--dry-run`` refuses what a run refuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectoscope.blockwise.destination import (
    check_apart,
    check_same,
    check_skipped,
    check_writable,
    found_at,
)
from connectoscope.blockwise.mask import Mask, read_mask
from connectoscope.blockwise.plan import Signature, as_begun
from connectoscope.cascade.plan import CascadePlan
from connectoscope.cascade.use import given_plan, signed
from connectoscope.errors import UserError
from connectoscope.segmentation.setup import Setup, set_up
from connectoscope.segmentation.targets import FILLED, Target, choose_targets
from connectoscope.volumes import open_volume

if TYPE_CHECKING:
    from connectoscope.jobs.context import Context
    from connectoscope.tasks.segment import Segment
    from connectoscope.volumes import Volume
    from connectoscope.zoo import Bundle


@dataclass(frozen=True)
class Asked:
    """A segmentation that may run.

    Attributes:
        basis: What it is of, but for the cascade, which ``identity`` has, too.
        planned: The plan file that was given.
        found: Our marks of what is at the destination; None where nothing is.
        existing: The same where it is gone on with; None where it is to be overwritten.
    """

    targets: list[Target]
    setup: Setup
    mask: Mask | None
    basis: Signature
    identity: Signature
    planned: CascadePlan | None
    found: dict[str, Any] | None
    existing: dict[str, Any] | None
    warnings: list[str]


def check(volume: Volume, bundle: Bundle, parameters: Segment, context: Context) -> Asked:
    """Look at everything that was asked for; nothing is written.

    Raises:
        UserError: unusable input or destination, or a destination made by another request.
    """
    targets, target_warnings = choose_targets(
        bundle.card, parameters.target, parameters.threshold, parameters.min_volume
    )
    if parameters.cascade != "off" and any(target.evidence for target in targets):
        raise UserError(f"{FILLED}: use --cascade off")
    if parameters.cascade != "off" and context.shared:
        raise UserError(
            "a cascade decides in one process where to look next: leave out --cascade, or --workers and --scheduler"
        )
    setup = set_up(volume, bundle, box=parameters.box, level=parameters.level, exact=parameters.exact)
    mask = None if parameters.within is None else open_volume(parameters.within)
    destination = Path(parameters.destination)
    check_apart(volume.source, destination)
    if mask is not None:
        check_apart(mask.source, destination, "mask")
    found = found_at(destination)
    existing = None if context.overwrite else found
    basis = identity_of(setup, targets, parameters.exact, mask)
    if existing is not None:
        basis = as_begun(basis, existing["signature"])
    within = None if mask is None else read_mask(mask, setup.grid)
    planned = given_plan(parameters.cascade, basis)
    identity = signed(basis, parameters.cascade, planned)
    warnings = [*setup.warnings(), *target_warnings]
    warnings += [] if within is None else within.told(setup.grid, setup.box)
    for text in warnings:
        context.warn(text)
    if existing is not None:
        check_same(destination, {k: existing["signature"].get(k) for k in identity}, identity)
    if existing is not None and existing.get("finished"):
        check_skipped(destination, existing["summary"], parameters.skip_corrupt)
        _check_whole(destination, targets)
    else:
        check_writable(destination)
    return Asked(targets, setup, within, basis, identity, planned, found, existing, warnings)


def _check_whole(destination: Path, targets: list[Target]) -> None:
    """Raises UserError where a finished result has lost labels or a table."""
    for target in targets:
        for part in (Path("labels", target.name), Path("tables", f"{target.name}.csv")):
            if not (destination / part).exists():
                raise UserError(
                    f"{destination} was finished, but its {part} is gone; to make all of it again, give --overwrite"
                )


def identity_of(setup: Setup, targets: list[Target], exact: bool, mask: Volume | None) -> Signature:
    """What the result is of, for the signature; places and names that do not change its bytes are left out."""
    return {
        "input": setup.volume.identity(),
        "model": setup.bundle.hash,
        "parameters": {
            "target": [t.name for t in targets],
            "threshold": {t.name: t.threshold for t in targets},
            "min_volume": {t.name: t.min_volume_nm3 for t in targets},
            "box": str(setup.box),
            "exact": exact,
        },
        "within": None if mask is None else mask.identity(),
    }
