from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny
from stableavatar.sampling.denoiser import Conditions, guided_velocity
from stableavatar.sampling.guidance import Weights, guidance_weights, native_weights, schedule_weights
from stableavatar.sampling.sampler import sample
from stableavatar.sampling.schedulers import euler_scheduler
from stableavatar.sampling.state import SamplerState
from stableavatar.sampling.windows import plan_windows, uniform_ramp

WINDOWS = plan_windows(7, 5, 2)


class Counted(StableAvatarTransformer):
    """Counts the rows that it computes."""

    num_rows: list[int]

    def forward(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        self.num_rows.append(len(hidden_states))
        return super().forward(hidden_states, *arguments, **named)


@pytest.fixture
def transformer() -> Counted:
    network = random_network(lambda: Counted(**tiny().transformer), 0)
    network.num_rows = []
    return network


@pytest.fixture(scope="module")
def conditions() -> Conditions:
    torch.manual_seed(1)
    return Conditions(
        portrait_BCFHW=torch.randn(1, 20, 5, 4, 6),
        image_BIE=torch.randn(1, 17, 40),
        text_BTE=torch.randn(2, 7, 32),
        audio=[torch.randn(1, 33, 24) for _ in WINDOWS],
    )


def run(transformer: StableAvatarTransformer, conditions: Conditions, weights: Sequence[Weights]) -> Tensor:
    noise = torch.randn(1, 16, 7, 4, 6, generator=torch.Generator().manual_seed(4))
    velocity = guided_velocity(transformer, conditions, weights, 5)
    with torch.inference_mode():
        return sample(
            velocity, SamplerState(latents_BCFHW=noise), WINDOWS, uniform_ramp(2), euler_scheduler(len(weights), 5.0)
        )


def test_equals_three_predictions_written_out(transformer: Counted, conditions: Conditions) -> None:
    """To the last bit, what the scales meant before they could change from step to step."""
    rows = torch.tensor([1 - 5.0, 5.0 - 3.0, 3.0]).view(-1, 1, 1, 1, 1)

    def velocity(latents: Tensor, timestep: Tensor, step: int, index: int) -> Tensor:
        inputs = torch.cat([latents, conditions.portrait_BCFHW], dim=1).expand(3, -1, -1, -1, -1)
        text, image = conditions.text_BTE[[1, 1, 0]], conditions.image_BIE.expand(3, -1, -1)
        predicted = transformer(inputs, timestep.expand(3), text, image, conditions.audio[index], [None, 0, 0])
        return (predicted.float() * rows).sum(dim=0, keepdim=True)

    noise = torch.randn(1, 16, 7, 4, 6, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = sample(
            velocity, SamplerState(latents_BCFHW=noise), WINDOWS, uniform_ramp(2), euler_scheduler(3, 5.0)
        )
    assert torch.equal(run(transformer, conditions, schedule_weights(guidance_weights, 3, 3.0, 5.0)), expected)


def test_only_the_rows_of_a_step_are_computed(transformer: Counted, conditions: Conditions) -> None:
    run(transformer, conditions, schedule_weights(guidance_weights, 4, "3x1,0x1,1", "5x3,1"))
    assert transformer.num_rows == [3, 3, 2, 2, 3, 3, 1, 1]


def test_native_guidance_is_its_three_predictions(transformer: Counted, conditions: Conditions) -> None:
    latents, time = torch.randn(1, 16, 5, 4, 6, generator=torch.Generator().manual_seed(2)), torch.tensor(700.0)

    def predict(weights: Weights) -> Tensor:
        with torch.inference_mode():
            return guided_velocity(transformer, conditions, [weights], 5)(latents, time, 0, 0)

    weights = native_weights(4, 3)
    parts = {row: predict({row: 1.0}) for row in weights}
    combined = predict(weights)
    assert transformer.num_rows == [1, 1, 1, 3]
    expected = sum((weight * parts[row] for row, weight in weights.items()), torch.zeros(()))
    torch.testing.assert_close(combined, expected, atol=1e-4, rtol=1e-4)
    everything, no_audio, no_pair = parts.values()
    assert not torch.allclose(everything, no_audio) and not torch.allclose(everything, no_pair)


def test_short_windows_are_padded_inside(transformer: Counted, conditions: Conditions) -> None:
    latents = torch.randn(1, 16, 3, 4, 6)
    with torch.inference_mode():
        velocity = guided_velocity(transformer, conditions, [guidance_weights(3, 5)], 5)
        assert velocity(latents, torch.tensor(500.0), 0, 1).shape == latents.shape
