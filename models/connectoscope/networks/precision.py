"""The arithmetic of a device: bfloat16 where the processor multiplies it natively, else float32.

Where it is emulated, bfloat16 is no shortcut: on a processor with AVX2 alone an update of a small 3D U-Net takes minutes
instead of seconds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def best_precision(device: str) -> str:
    """A name of :data:`PRECISIONS`."""
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "cpu" and _has_native_bf16()
    return "bfloat16" if native else "float32"


def mixed_precision(device: str) -> AbstractContextManager[None]:
    """What networks of float32 weights are trained and scored in: multiplications in the best precision, sums in float32."""
    return torch.autocast(  # noqa: TID251
        device, torch.bfloat16, enabled=best_precision(device) == "bfloat16"
    )


def _has_native_bf16() -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch for Apple's processors is built without it
        return False
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    multiplies = bool((check and check()) or (amx and amx()))
    return multiplies and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
