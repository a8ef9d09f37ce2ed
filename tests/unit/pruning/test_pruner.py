"""Masks under training: the schedule, hidden weights that come back, rivals, and a state that resumes exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_rule import NET

from connectoscope.errors import UserError
from connectoscope.networks.unet3d import UNet3d
from connectoscope.pruning.masks import density_of
from connectoscope.pruning.pruner import Pruner, Schedule
from connectoscope.pruning.rates import watching_likeness

SCHEDULE = Schedule(steps=40, warm_up=5, every=5)


class Run:
    """A training of a few steps on noise."""

    def __init__(self, rule, density=0.5, **options):
        torch.manual_seed(0)
        self.network = UNet3d(NET).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)
        self.pruner = Pruner(self.network, SCHEDULE, rule, density, **options)
        self.step = 0

    def go(self, steps, look=lambda run: None):
        for _ in range(steps):
            self.step += 1
            x = torch.randn(1, 1, 2, 16, 16, generator=torch.Generator().manual_seed(self.step))
            self.optimizer.zero_grad()
            with self.pruner.rates.watching():
                loss = (self.network(x) - x.roll(1, -1)).square().mean()
            loss.backward()
            self.pruner.before_step(self.step)
            self.optimizer.step()
            self.pruner.after_step(self.step, self.optimizer)
            look(self)
        return self

    def kept(self):
        return {name: mask.numpy() for name, mask in self.pruner.masks.items()}


def test_refreshes_come_after_the_warm_up_and_end_before_the_last_fifth():
    assert [step for step in range(1, 41) if SCHEDULE.refreshes(step)] == [5, 10, 15, 20, 25, 30]
    assert SCHEDULE.exchanged(5) == pytest.approx(0.3)
    assert SCHEDULE.exchanged(32) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("rule", ["budgeted-broadcast", "magnitude", "shuffled", "reversed", "rigl", "set"])
def test_density_is_met_and_hidden_weights_are_nought(rule):
    seen = []

    def look(run):
        for layer in run.pruner.wiring.prunable:
            weight = run.network.get_parameter(layer.weight).detach().abs().sum((2, 3, 4)).numpy()
            if layer.name in run.pruner.masks:
                mask = run.kept()[layer.name]
                assert (weight[~mask] == 0).all()
        if run.pruner.masks:
            seen.append(density_of(run.kept()))

    run = Run(rule).go(40, look)
    assert len(seen) == 36
    assert seen == pytest.approx([0.5] * 36, abs=0.02)
    if rule in ("rigl", "set"):  # the same number in each layer at every refresh
        assert all(m.sum() == round(0.5 * m.size) for m in run.kept().values())


def test_hidden_weights_come_back_with_their_values():
    run = Run("magnitude").go(5)
    name, mask = next(iter(run.kept().items()))
    weight = run.network.get_parameter(run.pruner.wiring.layer(name).weight)
    hidden = run.pruner.hidden[name].clone()
    before = run.pruner.strengths()[name]
    assert (before[~mask] > 0).all()
    strongest = np.argwhere(~mask)[before[~mask].argmax()]
    with torch.no_grad():
        weight.zero_()  # all that is kept fades: what is hidden is now the strongest
    run.go(5)
    assert run.kept()[name][tuple(strongest)]
    back = weight.detach()[tuple(strongest)]
    assert torch.equal(back, hidden[tuple(strongest)])  # as it was hidden, refreshed at this very step


def test_rigl_grows_where_the_gradient_is_greatest_from_nought():
    run = Run("rigl").go(9)
    before = run.kept()
    run.go(1)
    for name, mask in run.kept().items():
        grown = mask & ~before[name]
        assert grown.sum() == round(SCHEDULE.exchanged(10) * before[name].sum())
        gradient = run.pruner._gradients[name]
        stayed_out = ~mask & ~before[name]
        assert gradient[grown].min() >= gradient[stayed_out].max(initial=0)
        weight = run.network.get_parameter(run.pruner.wiring.layer(name).weight).detach()
        assert (weight[torch.from_numpy(grown)] == 0).all()


def test_rivals_keep_as_many_in_each_layer_as_they_are_told():
    ours = {name: int(m.sum()) for name, m in Run("budgeted-broadcast").go(30).kept().items()}
    for rule in ("magnitude", "rigl", "set"):
        rival = Run(rule, layers=ours).go(30).kept()
        assert {name: int(m.sum()) for name, m in rival.items()} == ours


def test_a_stopped_training_goes_on_exactly():
    whole = Run("budgeted-broadcast", actuator="both").go(23)
    half = Run("budgeted-broadcast", actuator="both").go(12)
    again = Run("budgeted-broadcast", actuator="both")
    again.step = 12
    again.network.load_state_dict(half.network.state_dict())
    again.optimizer.load_state_dict(half.optimizer.state_dict())
    again.pruner.restore({k: v.clone() for k, v in half.pruner.state().items()})
    again.go(11)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key
    for key, value in whole.pruner.state().items():
        assert torch.equal(value, again.pruner.state()[key]), key


def test_masks_go_to_the_device_of_their_weights():
    state = Run("magnitude").go(20).pruner.state()
    other = Pruner(UNet3d(NET).to("meta"), SCHEDULE, "magnitude", 0.5)
    other.restore(state)
    found = (*other.masks.values(), *other.hidden.values())
    assert {tensor.device.type for tensor in found} == {"meta"}


def test_averaged_weights_are_masked_alike():
    run = Run("budgeted-broadcast").go(6)
    state = {k: torch.ones_like(v) for k, v in run.network.state_dict().items()}
    masked = run.pruner.masked(state)
    for layer in run.pruner.wiring.layers:
        share = masked[layer.weight].float().mean()
        expected = run.kept()[layer.name].mean() if layer.prunable else 1
        assert share == pytest.approx(expected)


def test_a_layer_that_would_lose_all_inputs_is_named():
    run = Run("budgeted-broadcast", 0.4)
    with torch.no_grad():  # the coarse level hears as little from each unit; the skip has favourites
        run.network.get_parameter("encoders.1.0.0.weight").fill_(1e-3)
        skip = run.network.get_parameter("decoders.0.0.0.weight")
        skip.fill_(1e-6)
        skip[:3, NET.features[0] :] = 1.0
    run.optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(UserError, match=r"encoders\.1\.0 would lose all its inputs"):
        run.go(5)


@pytest.mark.parametrize("rule", ["magnitude", "rigl", "set"])
def test_a_density_that_empties_a_layer_is_refused_before_training(rule):
    with pytest.raises(UserError, match="would lose all its inputs"):
        Pruner(UNet3d(NET), SCHEDULE, rule, 0.001).check()
    Pruner(UNet3d(NET), SCHEDULE, rule, 0.5).check()


def test_a_unit_without_inputs_keeps_its_on_rate():
    """Cut off, it says the same everywhere, so it would soon count as one that is rarely on, and come back."""
    run = Run("budgeted-broadcast", 0.25, structured=True).go(5)
    before = run.pruner.rates.values()
    deaf = {name: ~mask.any(1) for name, mask in run.kept().items()}
    assert sum(units.sum() for units in deaf.values()) > 3
    run.go(4)
    after = run.pruner.rates.values()
    for name, units in deaf.items():
        np.testing.assert_allclose(after[name][units], before[name][units])
    assert any((after[name] != before[name]).any() for name in after)
    other = Run("budgeted-broadcast", 0.25, structured=True)
    other.pruner.restore(run.pruner.state())
    assert {k: v.tolist() for k, v in other.pruner.rates.deaf.items()} == {
        k: v.tolist() for k, v in deaf.items()
    }


def test_shuffled_rates_are_the_same_at_every_refresh():
    """Else the control would also measure what connections that come and go cost."""
    run = Run("shuffled", 0.5).go(5)
    rates = run.pruner.rates.values()
    run.pruner.rates.values = lambda: rates
    first = run.kept()
    run.pruner._refresh(10)
    again = run.kept()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_likeness_is_the_mean_of_all_passes():
    network = UNet3d(NET).eval()
    one, two = (torch.randn(1, 1, 2, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    found = []
    for passes in ((one,), (two,), (one, two)):
        with torch.no_grad(), watching_likeness(network) as likeness:
            for x in passes:
                network(x)
        found.append(likeness)
    assert found[2] == pytest.approx({name: (a + found[1][name]) / 2 for name, a in found[0].items()})
