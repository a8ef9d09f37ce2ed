"""Compaction is exact: outputs equal within float rounding, whatever was pruned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rule import NET

from connectoscope.networks.compact import compacted
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import wiring_of


@st.composite
def architectures(draw):
    """Of one to three levels, all shapes of kernels and strides, with and without a stem."""
    levels = draw(st.integers(1, 3))
    kernel = st.sampled_from([(1, 1, 3), (1, 3, 3), (3, 3, 3)])
    row = st.lists(kernel, min_size=1, max_size=2).map(tuple)
    stride = st.sampled_from([(1, 2, 2), (2, 2, 2), (1, 1, 2)])
    return UNet3dArguments(
        outputs=draw(st.integers(1, 2)),
        features=tuple(draw(st.integers(1, 5)) for _ in range(levels)),
        kernels=tuple(draw(row) for _ in range(levels)),
        strides=tuple(draw(stride) for _ in range(levels - 1)),
        stem=draw(st.sampled_from([(1, 1, 1), (1, 2, 2)])),
    )


def trained(seed, arguments=NET):
    """A network whose batch norms have seen something."""
    torch.manual_seed(seed)
    network = UNet3d(arguments)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.3)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def pruned(seed, density, arguments):
    network = trained(seed, arguments)
    rng = np.random.default_rng(seed)
    for layer in wiring_of(arguments).layers:
        weight = network.get_parameter(layer.weight)
        mask = torch.from_numpy(rng.random((layer.outputs, layer.inputs)) < density)
        with torch.no_grad():
            weight.mul_(mask[:, :, None, None, None])
    return network


@settings(deadline=None, max_examples=60)
@given(arguments=architectures(), seed=st.integers(0, 9999), density=st.floats(0, 0.9))
def test_outputs_are_equal(arguments, seed, density):
    network = pruned(seed, density, arguments)
    small = compacted(network)
    shape = [2 * s for s in arguments.total_stride]
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(small(x), network(x), atol=1e-5, rtol=1e-5)


def test_what_nobody_reads_is_gone_skips_included():
    network = trained(1)
    wiring = wiring_of(NET)
    with torch.no_grad():
        for link in wiring.links:
            if link.sender == "encoders.0.1":
                network.get_parameter(wiring.layer(link.receiver).weight)[:, link.first + 1] = 0
    small = compacted(network)
    assert small.arguments.widths == {"encoders.0.1": 2}
    assert small.arguments.width("encoders.0.1") == 2
    assert UNet3dArguments.parse(small.arguments.to_json()) == small.arguments
    before, after = (sum(p.numel() for p in n.parameters()) for n in (network, small))
    assert after < before


def test_a_dead_chain_goes_whole():
    network = trained(2)
    with torch.no_grad():  # nobody reads the up-sampled way: the coarse level is of no use
        network.get_parameter("decoders.0.0.0.weight")[:, : NET.features[0]] = 0
    small = compacted(network)
    assert [small.arguments.width(n) for n in ("ups.0", "encoders.1.0", "encoders.1.1")] == [1, 1, 1]


def test_a_network_that_lost_nothing_stays_as_it_is():
    small = compacted(trained(3))
    assert small.arguments == NET
    assert "widths" not in small.arguments.to_json()


@pytest.mark.parametrize("widths", [{"encoders.9.0": 2}, {"ups.0": 0}])
def test_widths_that_make_no_sense_are_refused(widths):
    with pytest.raises(ValueError, match="widths"):
        UNet3dArguments.parse({**NET.to_json(), "widths": widths})
