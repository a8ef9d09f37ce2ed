"""Receptive-field arithmetic against the network's own gradient; folding; the stem."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from connectoscope.errors import UserError
from connectoscope.networks.fold import fold_batch_norm
from connectoscope.networks.registry import build_network, parse_architecture
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments, depth_to_space, space_to_depth

KERNEL = st.sampled_from([(1, 1, 1), (1, 3, 3), (3, 3, 3), (3, 1, 1)])
STRIDE = st.sampled_from([(1, 2, 2), (2, 2, 2), (1, 1, 3), (1, 1, 1)])


@st.composite
def architectures(draw: st.DrawFn) -> UNet3dArguments:
    levels = draw(st.integers(1, 3))
    return UNet3dArguments(
        outputs=1,
        features=(2,) * levels,
        kernels=tuple(tuple(draw(st.lists(KERNEL, min_size=1, max_size=2))) for _ in range(levels)),
        strides=tuple(draw(STRIDE) for _ in range(levels - 1)),
        stem=draw(st.sampled_from([(1, 1, 1), (1, 2, 2)])),
        smooth=draw(st.sampled_from([(), (0.4,), (1.0,)])),
    )


def measured_reach(arguments: UNet3dArguments) -> tuple[int, ...]:
    """How far the input reaches the output: gradients of a network of positive weights without batch norm."""
    network = fold_batch_norm(UNet3d(arguments)).double()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()  # type: ignore[union-attr]
    stride = arguments.total_stride
    size = [2 * (-(-(r + s) // s) * s) + s for r, s in zip(arguments.halo(), stride, strict=True)]
    x = torch.rand((1, 1, *size), dtype=torch.float64) + 1
    x.requires_grad_()
    # max-pool passes the gradient to one voxel of a window: average pooling has the same field
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.max_pool3d", torch.nn.functional.avg_pool3d)
        y = network(x)[0, 0]
    reach = [0, 0, 0]
    for axis in range(3):
        for phase in range(stride[axis]):
            at = [n // 2 for n in size]
            at[axis] = (size[axis] // stride[axis] // 2) * stride[axis] + phase
            (gradient,) = torch.autograd.grad(y[tuple(at)], x, retain_graph=True)
            touched = np.unique(np.argwhere(gradient[0, 0].numpy() != 0)[:, axis])
            reach[axis] = max(reach[axis], at[axis] - touched[0], touched[-1] - at[axis])
    return tuple(int(r) for r in reach)


@settings(max_examples=15, deadline=None)
@given(architectures())
def test_reach_is_what_the_gradient_says(arguments: UNet3dArguments) -> None:
    assert arguments.reach() == measured_reach(arguments)


def test_halo_is_the_reach_rounded_up_to_the_total_stride() -> None:
    arguments = UNet3dArguments(3, (2, 2), (((1, 3, 3),) * 2, ((3, 3, 3),) * 2), ((1, 2, 2),), (1, 2, 2))
    assert arguments.total_stride == (1, 4, 4)
    for reach, halo, stride in zip(arguments.reach(), arguments.halo(), arguments.total_stride, strict=True):
        assert halo % stride == 0
        assert reach <= halo < reach + stride


def test_smoothing_is_a_gaussian_within_each_section() -> None:
    plain = UNet3dArguments(3, (2, 3), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),), (1, 2, 2))
    torch.manual_seed(0)
    network = UNet3d(plain).eval()
    sigmas = (2.0, 0.0, 0.7)
    smooth = UNet3d(replace(plain, smooth=sigmas)).eval()
    smooth.load_state_dict(network.state_dict())  # smoothing has no weights
    x = torch.randn(2, 1, 3, 32, 24)
    with torch.inference_mode():
        raw, seen, core = network(x).numpy(), smooth(x).numpy(), smooth(x, (0, 8, 4)).numpy()
    for output, sigma in enumerate(sigmas):
        size = (0, 0, 0, sigma, sigma)
        expected = gaussian_filter(raw, size, mode="nearest", truncate=3) if sigma else raw
        if sigma == 0.7:  # scipy rounds the radius, here it is rounded up
            expected = gaussian_filter(raw, size, mode="nearest", radius=(0, 0, 0, 3, 3))
        np.testing.assert_allclose(seen[:, output], expected[:, output], atol=1e-5)
    np.testing.assert_allclose(core, seen[:, :, :, 8:-8, 4:-4], atol=1e-5)
    assert UNet3dArguments.parse(smooth.arguments.to_json()) == smooth.arguments
    assert "smooth" not in plain.to_json()


def test_stem_is_lossless() -> None:
    x = torch.rand(2, 3, 4, 6, 8)
    assert torch.equal(depth_to_space(space_to_depth(x, (2, 3, 2)), (2, 3, 2)), x)


def test_folding_changes_nothing() -> None:
    torch.manual_seed(0)
    network = UNet3d(UNet3dArguments(2, (4, 8), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),), (1, 2, 2)))
    network.train()
    for _ in range(3):
        network(torch.rand(2, 1, 4, 16, 16) * 3)  # statistics that are not the default
    network.eval()
    x = torch.rand(1, 1, 4, 16, 16)
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in folded.modules())
    torch.testing.assert_close(folded(x), network(x), atol=1e-5, rtol=1e-5)


def test_arguments_survive_json_and_bad_ones_are_refused() -> None:
    arguments = UNet3dArguments(2, (4, 8), (((1, 3, 3),), ((3, 3, 3),)), ((1, 2, 2),))
    values = {k: [list(v) if isinstance(v, tuple) else v for v in x] if isinstance(x, tuple) else x
              for k, x in arguments.to_json().items()}  # fmt: skip
    assert parse_architecture("unet3d", values) == arguments
    with pytest.raises(UserError, match="not known"):
        build_network("resnet", {})
    with pytest.raises(UserError, match="odd"):
        build_network("unet3d", values | {"kernels": [[[2, 3, 3]], [[1, 1, 1]]]})
    with pytest.raises(UserError, match="levels"):
        build_network("unet3d", values | {"strides": []})


@settings(deadline=None, max_examples=60)
@given(arguments=architectures(), cut=st.tuples(*[st.integers(0, 2)] * 3), seed=st.integers(0, 99))
def test_without_its_halo_the_output_is_the_same(
    arguments: UNet3dArguments, cut: tuple[int, int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    network = UNet3d(arguments).eval()
    stride = arguments.total_stride
    halo = tuple(c * s for c, s in zip(cut, stride, strict=True))
    shape = [2 * h + 2 * s for h, s in zip(halo, stride, strict=True)]
    x = torch.randn(1, 1, *shape)
    with torch.inference_mode():
        whole, core = network(x), network(x, halo)
    inner = (..., *(slice(h, n - h) for h, n in zip(halo, shape, strict=True)))
    torch.testing.assert_close(core, whole[inner], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": 0},
        {"features": (6.0, 8)},
        {"features": (6, -8)},
        {"kernels": (((3, 3),), ((1, 3, 3),))},
        {"kernels": ((), ((1, 3, 3),))},
        {"strides": ((1, 0, 2),)},
        {"stem": (2, 2)},
        {"stem": (0, 1, 1)},
        {"widths": [1]},
        {"widths": {"encoders.0.0": 0}},
        {"widths": {"nowhere": 4}},
        {"smooth": 2.0},
        {"smooth": 0},
        {"smooth": None},
        {"smooth": False},
        {"smooth": (1e-46,)},
        {"smooth": (1.0, 1.0)},
        {"smooth": (-1.0,)},
        {"smooth": (float("nan"),)},
        {"smooth": (1e6,)},
        {"smooth": ("2",)},
    ],
    ids=str,
)
def test_arguments_that_are_no_network_are_one_line(change) -> None:
    right = {
        "outputs": 1,
        "features": (6, 8),
        "kernels": (((1, 3, 3),), ((1, 3, 3),)),
        "strides": ((1, 2, 2),),
    }
    build_network("unet3d", right)
    with pytest.raises(UserError, match="architecture unet3d cannot be built: "):
        build_network("unet3d", right | change)
