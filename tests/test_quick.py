import copy

import pytest
import torch
from torch import nn

from stableavatar.model.networks import VAE
from stableavatar.model.quick import quick_convolutions
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny


@pytest.mark.parametrize("words", [{}, {"stride": (1, 2, 2), "bias": False}, {"padding": 1, "dilation": 2}])
def test_the_quick_path_computes_the_same_and_its_gradients(words: dict) -> None:
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 5, (3, 3, 3), **words)
    quick = quick_convolutions(copy.deepcopy(plain))
    results = []
    for layer in (plain, quick, copy.deepcopy(quick)):
        x = torch.randn(1, 3, 5, 9, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = layer(x)
        y.square().sum().backward()
        results.append((y, x.grad, layer.weight.grad))
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_no_convolution_of_a_small_video_takes_the_slow_path() -> None:
    vae = random_network(lambda: VAE.build(tiny()), 0)
    with torch.inference_mode(), torch.profiler.profile() as profile:
        vae.decode(vae.encode(torch.zeros(1, 3, 5, 32, 32)).latent_dist.mode())
    names = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow_conv3d" in name for name in names)
