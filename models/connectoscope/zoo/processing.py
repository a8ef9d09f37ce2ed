"""What a bioimage.io package asks for before and after its network, in our own steps; nothing else is done."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connectoscope.errors import UserError
from connectoscope.networks.onnx_network import Steps
from connectoscope.zoo.card import WIDE, Imported
from connectoscope.zoo.package import Processing, Tensor


def preprocessing(source: Tensor, image: NDArray[np.float32]) -> tuple[Imported, Steps]:
    """How the card is to normalise, and the steps from there to what the graph takes.

    Args:
        image: The test image; tells the size of intensities where the package wants them as they are.

    Raises:
        UserError: the package asks for something that cannot be done for a volume of any size.
    """
    rest = [p for p in source.preprocessing if not _does_nothing(p)]
    first = rest[0] if rest else None
    gain, offset = 2 * WIDE, 0.0
    if first is not None and first.id == "scale_range":
        low, high = (_number(first, k, d) for k, d in (("min_percentile", 0.0), ("max_percentile", 100.0)))
        if first.kwargs.get("reference_tensor") not in (None, source.id):
            raise UserError(
                "the package scales its input by another tensor, which connectoscope does not have"
            )
        wanted = _imported(method="scale-range", low=low, high=high)
    elif first is not None and first.id == "zero_mean_unit_variance":
        wanted = _imported(method="zero-mean")
    else:
        # v is size * (v / size); a power of two, so that nothing is lost.
        size = 2.0 ** math.ceil(math.log2(max(float(np.abs(image).max()), 1e-6)))
        wanted, gain, first = _imported(method="fixed", low=0.0, high=size), gain * size, None
    if first is not None:
        rest = rest[1:]
        _check_axes(first, source)
    return wanted, (("scale", gain, offset), *_steps(rest, source))


def postprocessing(target: Tensor) -> Steps:
    """The steps from what the graph gives to probabilities.

    Raises:
        UserError: the package asks for something else.
    """
    return _steps([p for p in target.postprocessing if not _does_nothing(p)], target)


def _steps(asked: list[Processing], tensor: Tensor) -> Steps:
    made: list[tuple[Any, ...]] = []
    for p in asked:
        if p.id == "scale_linear":
            made.append(("scale", _number(p, "gain", 1.0), _number(p, "offset", 0.0)))
        elif p.id == "fixed_zero_mean_unit_variance":
            mean, std = _number(p, "mean", None), _number(p, "std", None)
            made.append(("scale", 1 / max(std, 1e-6), -mean / max(std, 1e-6)))
        elif p.id == "clip" and not {"min_percentile", "max_percentile"} & p.kwargs.keys():
            bounds = [None if p.kwargs.get(k) is None else _number(p, k, None) for k in ("min", "max")]
            made.append(("clip", *bounds))
        elif p.id == "sigmoid":
            made.append(("sigmoid",))
        elif p.id == "softmax" and p.kwargs.get("axis", "channel") in [
            a.id or "channel" for a in tensor.axes if a.letter == "c"
        ]:
            made.append(("softmax",))
        else:
            raise UserError(
                f"the package asks for '{p.id}' on '{tensor.id}', which connectoscope does not do here; it does scale_linear, "
                "fixed_zero_mean_unit_variance, clip, sigmoid, softmax and, first of all, scale_range or zero_mean_unit_variance"
            )
    return tuple(made)


def _does_nothing(p: Processing) -> bool:
    """All numbers are float32 here anyway."""
    return p.id == "ensure_dtype" and str(p.kwargs.get("dtype")).startswith("float")


def _imported(**values: Any) -> Imported:
    try:
        return Imported(**values)
    except ValueError as error:
        raise UserError(f"the package normalises in an impossible way: {error}") from None


def _number(p: Processing, key: str, default: float | None) -> float:
    value = p.kwargs.get(key, default)
    if isinstance(value, list) and len(value) == 1:  # along an axis with one channel
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"the package asks for '{p.id}' with {key} {value!r}, which is not a single number")
    return float(value)


def _check_axes(p: Processing, source: Tensor) -> None:
    """Raises UserError unless the statistics are of all voxels of an image."""
    axes = p.kwargs.get("axes")
    missing = [a.id for a in source.axes if a.type == "space" and axes is not None and a.id not in axes]
    if missing:
        raise UserError(
            f"the package normalises each {missing[0]} of its own, which would depend on the tile; only whole images"
        )
