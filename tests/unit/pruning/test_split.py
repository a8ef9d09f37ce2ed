"""Networks that were joined run one after another again; others stay as they are."""

from __future__ import annotations

import pytest
import torch
from test_join import network

from connectoscope.networks.predictor import make_predictor
from connectoscope.networks.split import SideBySide, split
from connectoscope.networks.unet3d import UNet3d
from connectoscope.pruning.join import joined

IMAGE = torch.rand((1, 1, 8, 16, 24), generator=torch.Generator().manual_seed(2))


def three() -> list[UNet3d]:
    return [
        network(0, features=[4, 6, 8], widths={"decoders.0.1": 3, "ups.1": 5}),
        network(1, features=[2, 7, 3], widths={"encoders.1.0": 4}),
        network(2, features=[1, 1, 1]),
    ]


@pytest.mark.parametrize(("count", "smooth"), [(2, ()), (3, ()), (2, (1.5, 0))])
def test_parts_are_found_and_say_the_same(count, smooth):
    parts = three()[:count]
    whole = joined(parts, [[1 / count] * 2] * count, smooth)
    with torch.no_grad():  # a unit that nobody reads, and one that reads nobody: no parts of their own
        whole.encoders[0][0][0].weight[0] = 0
        whole.encoders[0][1][0].weight[:, 1] = 0
    made = split(whole)
    assert isinstance(made, SideBySide)
    assert len(made.parts) == count
    sizes = [sum(p.numel() for p in part.parameters()) for part in made.parts]
    assert sum(sizes) <= sum(p.numel() for part in parts for p in part.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(made(IMAGE), whole(IMAGE), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made(IMAGE, (2, 4, 4)), whole(IMAGE, (2, 4, 4)), rtol=1e-4, atol=1e-4)


def test_what_hangs_together_stays():
    one = three()[0]
    assert split(one) is one
    with torch.no_grad():
        one.encoders[1][0][0].weight[2] = 0
    assert split(one) is one
    whole = joined(three()[:2], [[0.5, 0.5]] * 2)
    with torch.no_grad():
        whole.decoders[0][1][0].weight[0, -1] = 0.1  # one reads the other
    assert split(whole) is whole


def test_a_predictor_runs_the_parts():
    whole = joined(three(), [[0.5, 0.2], [0.25, 0.4], [0.25, 0.4]])
    options = {"tile": (8, 16, 24), "halo": (2, 4, 4), "stride": (2, 4, 4)}
    predictor = make_predictor(whole, ("a", "b"), **options)
    assert isinstance(predictor.network, SideBySide)
    with torch.inference_mode():
        expected = torch.sigmoid(whole(IMAGE, (2, 4, 4)))[0].numpy() * 255
    assert abs(predictor(IMAGE[0, 0].numpy()) - expected).max() <= 0.51
