"""The balance, the masks and the on-rates: hand-worked small networks, and what must hold for any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from connectoscope.errors import UserError
from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.networks.wiring import wiring_of
from connectoscope.pruning.balance import coding_entropy, degrees, log_odds, top
from connectoscope.pruning.masks import choose
from connectoscope.pruning.rates import OnRates

NET = UNet3dArguments(
    outputs=2,
    features=(3, 4),
    kernels=(((1, 3, 3), (1, 3, 3)), ((3, 3, 3), (1, 3, 3))),
    strides=((1, 2, 2),),
    stem=(1, 2, 2),
)


def test_the_wiring_is_that_of_the_network():
    wiring = wiring_of(NET)
    state = UNet3d(NET).state_dict()
    for layer in wiring.layers:
        weight = state[layer.weight]
        assert (layer.outputs, layer.inputs, layer.kernel) == (*weight.shape[:2], weight[0, 0].numel())
    weights = {k for k, v in state.items() if v.ndim == 5}
    assert weights == {layer.weight for layer in wiring.layers}
    assert [layer.name for layer in wiring.layers if not layer.prunable] == ["encoders.0.0", "head"]
    skip = {(link.receiver, link.first) for link in wiring.consumers("encoders.0.1")}
    assert skip == {("encoders.1.0", 0), ("decoders.0.0", 3)}
    assert [(link.receiver, link.first) for link in wiring.consumers("ups.0")] == [("decoders.0.0", 0)]
    assert wiring.consumers("decoders.0.1") == ()  # the head stays dense


def test_every_link_carries_what_the_network_carries():
    """A unit that is set to a constant changes exactly the layers that the wiring names."""
    torch.manual_seed(0)
    network = UNet3d(NET).eval()
    wiring = wiring_of(NET)
    x = torch.randn(1, 1, 2, 16, 16)
    for sender in wiring.senders:
        cut = UNet3d(NET).eval()
        cut.load_state_dict(network.state_dict())
        for link in wiring.links:
            if link.sender == sender:
                name = wiring.layer(link.receiver).weight
                weight = dict(cut.named_parameters())[name]
                with torch.no_grad():
                    weight[:, link.first : link.first + link.channels] = 0
        silent = UNet3d(NET).eval()
        silent.load_state_dict(network.state_dict())
        silent.get_submodule(sender).register_forward_hook(lambda _, __, out: torch.zeros_like(out))
        torch.testing.assert_close(cut(x), silent(x))


def test_degrees_of_a_hand_worked_case():
    # log-odds of 0.5, 0.1 and 0.9 are 0, 2.197 and -2.197; with β = 1 and 9 connections of at most 6: d0 = 3
    np.testing.assert_allclose(log_odds(np.array([0.5, 0.1, 0.9])), [0, np.log(9), -np.log(9)])
    assert degrees(np.array([0.5, 0.1, 0.9]), 6, 9, 1.0).tolist() == [3, 5, 1]
    assert degrees(np.array([0.5, 0.5, 0.5]), 6, 10, 1.0).tolist() == [4, 3, 3]  # largest remainder, first
    assert degrees(np.array([0.0, 1.0]), 4, 5, 1.0).tolist() == [4, 1]


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_degrees_meet_the_budget_and_follow_the_balance(data):
    n, most = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    rates = np.array(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    total = data.draw(st.integers(n, n * most))
    beta = data.draw(st.floats(0.01, 10))
    k = degrees(rates, most, total, beta)
    assert k.sum() == total
    assert ((k >= 1) & (k <= most)).all()
    order = np.argsort(rates)
    assert (np.diff(k[order].astype(float)) <= 1).all()  # rarer units never have less, but for rounding
    inside = (k > 1) & (k < most)
    if inside.sum() > 1:  # on the line k = d0 + log-odds / β, within one connection
        d0 = k[inside] - log_odds(rates[inside]) / beta
        assert d0.max() - d0.min() <= 2.0 + 1e-6


@pytest.mark.parametrize("total", [2, 19])
def test_what_cannot_be_kept_is_refused_with_what_can(total):
    with pytest.raises(UserError, match=r"density of 0\.167 to 1"):
        degrees(np.full(3, 0.2), 6, total, 1.0)


def test_top_keeps_the_strongest_of_each_row():
    kept = top(np.array([[0.1, 0.9, 0.5], [2.0, 2.0, 2.0]]), np.array([2, 1]))
    assert kept.tolist() == [[False, True, True], [True, False, False]]


def measured(seed):
    """On-rates and strengths of a network, drawn."""
    rng = np.random.default_rng(seed)
    wiring = wiring_of(NET)
    rates = {layer.name: rng.uniform(0, 1, layer.outputs) for layer in wiring.layers}
    strengths = {layer.name: rng.uniform(0, 1, (layer.outputs, layer.inputs)) for layer in wiring.prunable}
    return wiring, rates, strengths


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), density=st.floats(0.35, 1), actuator=st.sampled_from(["in", "out", "both"]))
def test_masks_meet_the_density_and_the_actuators_degrees(seed, density, actuator):
    wiring, rates, strengths = measured(seed)
    masks = choose(wiring, rates, strengths, density, actuator)
    assert masks.keys() == strengths.keys()
    total = sum(m.size for m in masks.values())
    assert sum(int(m.sum()) for m in masks.values()) == round(density * total)
    if actuator == "out":
        for sender in wiring.senders:
            links = wiring.consumers(sender)
            fan = sum(masks[k.receiver][:, k.first : k.first + k.channels].sum(0) for k in links)
            most = sum(wiring.layer(k.receiver).outputs for k in links)
            wanted = degrees(rates[sender], most, int(fan.sum()), 4 / most)
            np.testing.assert_array_equal(fan, wanted)
    if actuator == "in":
        for name, mask in masks.items():
            assert mask.sum(1).min() >= 1
            for row, strength in zip(mask, strengths[name], strict=True):  # the strongest of the row
                assert strength[row].min() >= strength[~row].max(initial=0)


def test_on_rates_are_shares_of_voxels_and_unbiased_from_the_first_batch():
    torch.manual_seed(1)
    network = UNet3d(NET).train()
    rates = OnRates(network)
    x = torch.randn(2, 1, 2, 16, 16)
    seen = {}
    hook = network.encoders[0][1].register_forward_hook(lambda _, __, out: seen.update(out=out.clone()))
    with rates.watching():
        network(x)
    direct = (seen["out"] > 0).double().mean((0, 2, 3, 4)).numpy()
    np.testing.assert_allclose(rates.values()["encoders.0.1"], direct, rtol=1e-6)
    hook.remove()
    network(x)  # not watched: counts for nothing
    assert rates.batches == 1
    with rates.watching():
        network(0 * x + 1)
    again = OnRates(network)
    again.restore(rates.state())
    np.testing.assert_array_equal(again.values()["ups.0"], rates.values()["ups.0"])
    assert rates.values().keys() == {layer.name for layer in wiring_of(NET).layers} - {"head"}


def test_coding_entropy_is_one_bit_a_unit_at_a_half():
    assert coding_entropy(np.array([0.5, 0.5, 0.5])) == pytest.approx(3)
    assert coding_entropy(np.array([0.0])) == pytest.approx(0.0114, abs=1e-4)
