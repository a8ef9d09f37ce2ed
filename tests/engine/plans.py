"""Plans of cascades as files, by hand."""

from __future__ import annotations

from connectoscope.cascade.plan import CascadePlan, GatePlan, Prediction


def write_plan(path, task, identity, core, halo, factor, threshold, **changes):
    """A plan whose one gate is the maximum; the path as text."""
    values = {
        "task": task,
        "parameters": {},
        "identity": identity,
        "core": core,
        "tile": tuple(c + 2 * h for c, h in zip(core, halo, strict=True)),
        "gates": (GatePlan(factor=factor, gate="maximum", threshold=threshold),),
        "predicted": Prediction(
            calls=(1.0, 1.0), cells=8, seconds=1, one_level_seconds=2, recall=1, recall_interval=(0.9, 1)
        ),
        "verdict": "",
        "pilot": {},
    }
    CascadePlan(**(values | changes)).write(path)
    return str(path)
