"""Which model knows what looks most like a volume, and how far is it (:mod:`connectoscope.adaptation`).

Patches of the volume and those that a model was trained on (its signature) are compared as features of a network, by
their maximum mean discrepancy: NeuroADDA (Sawmya, Athey, Liu, Shavit 2025, arXiv 2503.06196).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from connectoscope.tasks.base import MenuEntry, OnVolume, Task, open_source, parameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from connectoscope.adaptation.ranking import Ranked
    from connectoscope.jobs.context import Context
    from connectoscope.volumes import Volume
    from connectoscope.volumes.geometry import Box
    from connectoscope.zoo import Bundle


class AdaptRank(OnVolume):
    """Models by their distance from a volume."""

    source: str = parameter(
        role="source", argument=True, help="Volume to find a model for: file, folder, URL or sample:NAME."
    )
    model: tuple[str, ...] = parameter((), help="Only this model (repeat for several). Default: all.")
    space: Literal["common", "own"] = parameter(
        "common",
        help="Compare by the features of one network for all models (common: distances of models can be compared), or of "
        "each model's own network (own).",
    )
    vectors: int = parameter(
        512, ge=16, le=1024, advanced=True, help="Number of patches of the volume that are compared."
    )
    bandwidth: float | None = parameter(
        None,
        gt=0,
        advanced=True,
        help="Width of the kernel that compares features. Default: the median distance of the feature vectors.",
    )
    seed: int = parameter(0, ge=0, advanced=True, help="Random seed of the patches that are drawn.")


def run(parameters: AdaptRank, context: Context) -> dict[str, Any]:
    """Rank models; no image of their training data is needed.

    Raises:
        UserError: no model can be judged, models that were named have no common output, or the volume will not do.
    """
    import torch

    from connectoscope.adaptation.ranking import check_common_output, domain_map, pooled_bandwidth, rank
    from connectoscope.adaptation.signature import COMMON, common_network
    from connectoscope.errors import UserError
    from connectoscope.volumes.geometry import parse_box
    from connectoscope.zoo import find_model, list_models

    torch.set_num_threads(context.threads)
    named = [find_model(name) for name in parameters.model]
    if named:
        check_common_output(named)
    common = common_network()
    if parameters.space == "common" and common is None:
        raise UserError(f"the common space needs the model '{COMMON}', which is not here; use --space own")
    volume = open_source(parameters, parameters.source)
    for text in volume.warnings:
        context.warn(text)
    part = None if parameters.box is None else parse_box(parameters.box)

    judged: dict[str, Bundle] = {}
    for bundle in named or [m for m in list_models() if not (m.card.reconstructs or m.card.imported)]:
        reason = _unfit(bundle, parameters.space, common)
        if reason is None:
            judged[bundle.path.name] = bundle
        elif named:
            raise UserError(reason)
        else:
            context.warn(reason)
    if not judged:
        raise UserError(
            "no model has a signature of its training data; make one: connectoscope adapt sign MODEL OUT --on SRC"
        )
    sources = {name: b.load_signature()[parameters.space].astype("float32") for name, b in judged.items()}
    targets: dict[str, NDArray[np.float32]] = {}
    bandwidth = parameters.bandwidth
    if parameters.space == "common" and common is not None:
        vectors = _embedded(common, volume, part, parameters, context, 0, 1)
        targets = dict.fromkeys(sources, vectors)
        bandwidth = bandwidth or pooled_bandwidth(sources, vectors)
        here = f"{volume.name} (this volume)"
        points = domain_map({here: vectors, **sources})
        context.plot(
            "domains",
            {name: p[::4].round(4).tolist() for name, p in points.items()},
            x="first main axis of the features",
            y="second main axis",
            marked={"this volume": _centre(points[here])},
        )
        centres = {name: _centre(p) for name, p in points.items()}
    else:
        for done, (name, bundle) in enumerate(judged.items()):
            targets[name] = _embedded(bundle, volume, part, parameters, context, done, len(judged))
        centres = {}
    ranked = rank(sources, targets, bandwidth=bandwidth, seed=parameters.seed)
    rows = [_row(r) for r in ranked]
    context.result(
        "ranking",
        context.folder,
        f"models for {volume.name}",
        text=_verdict(rows),
        table=[_shown(r) for r in rows],
        parameters=parameters.model_dump(include={"source", "box", "level", "voxel_size", "channel", "time"}),
    )
    return {
        "task": "adapt rank",
        "source": volume.name,
        "space": parameters.space,
        "models": rows,
        "yardstick": round(ranked[0].yardstick, 5),
        "map": centres,
        "warnings": context.warnings,
    }


def _unfit(bundle: Bundle, space: str, common: Bundle | None) -> str | None:
    """Why a model cannot be judged, and what to do; None where it can."""
    name, signature = bundle.path.name, bundle.card.signature
    how = f"make one: connectoscope adapt sign {name} OUT --on SRC"
    if bundle.card.reconstructs or bundle.card.imported:
        what = "makes EM from X-ray" if bundle.card.reconstructs else "is an imported ONNX network"
        return f"model '{name}' {what}, whose features cannot be compared: leave it out"
    if signature is None:
        return f"model '{name}' has no signature of its training data; {how}"
    if space == "common" and (
        signature.common is None or common is None or signature.common.hash != common.hash
    ):
        return f"model '{name}' has no signature by this version of the common network; {how}"
    return None


def _embedded(
    bundle: Bundle,
    volume: Volume,
    part: Box | None,
    parameters: AdaptRank,
    context: Context,
    done: int,
    models: int,
) -> NDArray[np.float32]:
    """Feature vectors of the target by one network."""
    from connectoscope.adaptation.features import embed, sample_patches, sees

    grid = sees(bundle.card, volume)
    box = None if part is None else grid.box_from_level(part, parameters.level)
    patches = sample_patches(grid, bundle.card, parameters.vectors, parameters.seed, box)

    def report(finished: int, total: int) -> None:
        context.check_cancelled()
        context.progress(done * total + finished, models * total, "features")

    return embed(bundle.load_network(), patches, context.device, report)


def _row(ranked: Ranked) -> dict[str, Any]:
    d = ranked.distance
    return {
        "model": ranked.model,
        "mmd2": round(d.mmd2, 5),
        "interval": [round(v, 5) for v in d.interval],
        "p": round(d.p, 4),
        "null": round(d.null, 5),
        "yardstick": round(ranked.yardstick, 5),
    }


def _shown(row: dict[str, Any]) -> list[str]:
    """A row of the table for people."""
    low, high = row["interval"]
    return [
        row["model"],
        f"{row['mmd2']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{row['p']:.3f}",
        f"{row['yardstick']:.3f}",
    ]


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Which is nearest, how far that is, and which are as near."""
    first, low = rows[0], rows[0]["interval"][1]
    equal = [r["model"] for r in rows[1:] if r["interval"][0] <= low]
    as_near = f"; {', '.join(equal)} may be as near" if equal else ""
    if first["mmd2"] <= max(first["yardstick"], first["null"]):
        return f"{first['model']} is nearest{as_near}. The volume looks like what it was trained on."
    return (
        f"{first['model']} is nearest{as_near}. Its distance is {first['mmd2']:.3f}, that within its own data "
        f"{first['yardstick']:.3f}: this tissue is new to it."
    )


def _centre(points: NDArray[np.float64]) -> tuple[float, float]:
    y = points.mean(axis=0)
    return round(float(y[0]), 4), round(float(y[-1]), 4)


def render(summary: dict[str, Any]) -> str:
    """A line for each model, nearest first."""
    lines = [f"{'model':<24} {'MMD²':>8}  {'95 % of resamples':<20} {'p':>6}  within its own data"]
    for m in summary["models"]:
        low, high = m["interval"]
        between = f"{low:.4f} to {high:.4f}"
        lines.append(
            f"{m['model']:<24} {m['mmd2']:>8.4f}  {between:<20} {m['p']:>6.3f}  {m['yardstick']:.4f}"
        )
    return "\n".join(lines)


TASK = Task(
    name="adapt rank",
    summary="Rank models by how similar their training data are to a volume.",
    parameters=AdaptRank,
    run=run,
    menu=(MenuEntry("Adapt", "Rank Models"),),
    render=render,
)
