"""One whole step of the transformer's training, against the few lines of its description."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stableavatar.model.networks import TRANSFORMER
from stableavatar.model.weights import random_network
from stableavatar.training.config import Augment, Loss, Optimiser, TrainingConfig
from stableavatar.training.order import generator_of
from stableavatar.training.trainer import Trainer
from tests.training import PRESET, small_batch, small_config

SEEDS = (3, 4)  # of the samples: the first is silent at a share of 0.5, the second is not
SETTINGS = [
    (Loss(whole=1.0, face=0.0, lip=0.0), Augment(silence=0.5, clip_level=0.0)),
    (Loss(whole=0.0, face=1.0, lip=0.0), Augment(silence=0.5, silence_as="reference", clip_level=1.0)),
    (Loss(whole=0.0, face=0.0, lip=1.0, motion=0.4, motion_axis="reference"), Augment(silence=0.0, clip_level=1.0)),
    (Loss(whole=1.0, face=0.0, lip=0.0, motion=0.0, normalise=True), Augment(silence=1.0, clip_level=0.0)),
]


def described_loss(network: Any, config: TrainingConfig) -> tuple[Tensor, list[bool]]:
    """The loss of the first step on both samples, and which of them are silent."""
    generator = generator_of(config.seed, "sigmas", 0)
    index = (torch.arange(2) + torch.rand(2, generator=generator)) * 1000 // 2  # a time step of each half
    s_B = (index[torch.randperm(2, generator=generator)] + 1) / 1000
    s_B = 5 * s_B / (1 + 4 * s_B)
    loss, augment, losses, silent = config.loss, config.augment, [], []
    for seed, s in zip(SEEDS, s_B, strict=True):
        one, draw = small_batch([seed]), generator_of(seed, "noise")
        from_posterior, noise = (torch.randn((1, 16, 3, 4, 4), generator=draw) for _ in range(2))
        silent.append(bool(torch.rand((), generator=draw) < augment.silence))
        x_0 = one["mean"] + one["logvar"].exp().sqrt() * from_posterior
        x_t = torch.cat([(1 - s) * x_0 + s * noise, one["portrait"]], dim=1)
        zeroed = silent[-1] and augment.silence_as == "reference"
        heard = not silent[-1] or zeroed
        predicted = network(
            x_t, s.view(1) * 1000, one["text"], one["image"], one["audio"] * (not zeroed) if heard else None,
            [0] if heard else [None], clip_level=bool(augment.clip_level),
        )  # fmt: skip
        error = predicted - (noise - x_0)
        masks = loss.whole * (1 + one["face"] + one["lip"]) + loss.face * one["face"] + loss.lip * one["lip"]
        size = masks.mean() if loss.normalise else 1
        if loss.motion_axis == "frames":
            moved = ((error[:, :, 1:] - error[:, :, :-1]) ** 2 * masks[:, :, 1:]).mean()
        else:
            moved = ((error[:, 1:] - error[:, :-1]) ** 2 * masks).mean()
        losses.append((1 - loss.motion) * (error**2 * masks).mean() / size + loss.motion * moved)
    return torch.stack(losses).mean(), silent


@pytest.mark.parametrize(("loss", "augment"), SETTINGS)
def test_a_step_is_what_the_description_says(loss: Loss, augment: Augment) -> None:
    optimiser = Optimiser(lr=1e-3, max_norm=0.02, warmup_steps=1)
    config = small_config(loss=loss, augment=augment, batch_size=2, optimiser=optimiser)
    network = random_network(lambda: TRANSFORMER.build(PRESET), config.seed).requires_grad_(True)
    expected, silent = described_loss(network, config)
    assert silent == [augment.silence > 0, augment.silence == 1]
    expected.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()

    trainer = Trainer(config)
    values = trainer.train_step([small_batch(SEEDS)])
    assert values["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert values["gradient_norm"] == pytest.approx(norm.item(), rel=1e-3)
    limit = 5 * optimiser.max_norm  # at the start
    assert norm > limit
    for name, gradient in gradients.items():
        moment = trainer.optimiser.state[trainer.parameters[f"network.{name}"]]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * gradient * limit / norm, rtol=1e-3, atol=1e-6)
