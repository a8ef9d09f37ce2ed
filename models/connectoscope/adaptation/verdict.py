"""What fine-tuning did to a model, in figures, rows and a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectoscope.adaptation.finetune import Outcome
    from connectoscope.evaluation.voxels import PrecisionRecall

WORDS = {
    "source": "the old weights are kept: fine-tuning did not improve them on the labelled patches",
    "statistics": "the old weights are kept, with batch-norm statistics of this volume",
    "trained": "the fine-tuned weights are kept",
}


def figures(curve: PrecisionRecall) -> dict[str, float]:
    f1, threshold = curve.best()
    return {
        "average_precision": round(curve.average_precision, 4),
        "f1": round(f1, 4),
        "threshold": threshold,
    }


def as_rows(scores: dict[str, dict[str, float]], kept: str) -> list[list[str]]:
    """Before and after, as text: (what, before, after)."""
    if not scores:
        return []
    before, after = scores["source"], scores[kept]
    return [
        [name, f"{before[key]:.4f}", f"{after[key]:.4f}"]
        for name, key in (("average precision", "average_precision"), ("best F1", "f1"))
    ]


def in_words(outcome: Outcome, scores: dict[str, dict[str, float]]) -> str:
    if not scores:
        return "the batch-norm statistics are those of this volume now; without labels it is not known whether that is better."
    where = "patches held back" if outcome.held_out else "the labelled patches themselves"
    figures = ", ".join(f"{name} {s['average_precision']:.4f}" for name, s in scores.items())
    return f"{WORDS[outcome.kept]} (average precision on {where}: {figures})."
