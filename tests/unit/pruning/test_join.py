"""Networks that are joined say what their mean says."""

from __future__ import annotations

import pytest
import torch

from connectoscope.networks.unet3d import UNet3d, UNet3dArguments
from connectoscope.pruning.join import joined

ALIKE = {
    "outputs": 2,
    "kernels": [[[1, 3, 3], [3, 3, 3]], [[1, 3, 3], [1, 3, 3]], [[3, 3, 3]]],
    "strides": [[1, 2, 2], [2, 2, 2]],
    "stem": [1, 2, 2],
}


def network(seed: int, **more) -> UNet3d:
    made = UNet3d(UNet3dArguments.parse({**ALIKE, **more}))
    generator = torch.Generator().manual_seed(seed)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.1 + 0.3 * torch.rand(tensor.shape, generator=generator))
    return made.eval()


@pytest.mark.parametrize("shares", [[[0.5, 0.5]] * 2, [[1, 0.25], [0, 0.75]]])
def test_logits_are_the_weighted_mean(shares):
    parts = [
        network(0, features=[4, 6, 8], widths={"decoders.0.1": 3, "ups.1": 5}),
        network(1, features=[2, 7, 3], widths={"encoders.1.0": 4}),
    ]
    whole = joined(parts, shares)
    image = torch.rand((1, 1, 8, 16, 24), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        mean = sum(
            torch.tensor(s).reshape(1, 2, 1, 1, 1) * p(image) for s, p in zip(shares, parts, strict=True)
        )
        torch.testing.assert_close(whole(image), mean, rtol=1e-4, atol=1e-4)
        core = whole(image, (2, 4, 4))
    torch.testing.assert_close(core, mean[:, :, 2:-2, 4:-4, 4:-4], rtol=1e-4, atol=1e-4)
    assert whole.arguments.halo() == parts[0].arguments.halo()
    assert whole.arguments.width("ups.1") == 5 + 7
    smooth = joined(parts, shares, (2, 0.5))
    assert smooth.arguments.smooth == (2, 0.5)
    assert joined([smooth, smooth], shares).arguments.smooth == (2, 0.5)
    assert joined([smooth, parts[0]], shares, (0, 1)).arguments.smooth == (0, 1)


def test_networks_that_differ_are_refused():
    one = network(0, features=[2, 2, 2])
    with pytest.raises(ValueError, match="alike but for their channels"):
        joined([one, network(0, features=[2, 2, 2], stem=[1, 1, 1])], [[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="2 networks of 2 outputs need as many shares"):
        joined([one, one], [[1, 1]])
    with pytest.raises(ValueError, match="smooth must be"):
        joined([one, one], [[0.5, 0.5]] * 2, [1])
