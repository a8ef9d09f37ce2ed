"""bfloat16 only where the processor has it: emulated, a training that takes an hour takes days."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from connectoscope.networks import precision
from connectoscope.networks.precision import PRECISIONS, best_precision, mixed_precision


@pytest.mark.parametrize("native", [True, False])
def test_networks_multiply_in_what_the_processor_has(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(precision, "_has_native_bf16", lambda: native)
    with mixed_precision("cpu"):
        told = nn.Conv3d(1, 2, 1)(torch.ones(1, 1, 2, 2, 2))
    assert best_precision("cpu") == ("bfloat16" if native else "float32")
    assert told.dtype is PRECISIONS[best_precision("cpu")]


def test_torch_without_its_library_for_processors_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", object(), raising=False)
    assert best_precision("cpu") == "float32"


def test_a_gpu_that_only_emulates_it_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert best_precision("cuda") == "float32"
