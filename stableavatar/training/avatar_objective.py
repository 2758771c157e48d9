"""The transformer's objective: flow matching under masks, from a portrait, a prompt and a voice.

Shapes: B batch, C channels, F latent frames, H W latent height and width.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from stableavatar.model.names import is_vocal
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample
from stableavatar.training.flow import add_noise, choose_weights, stratified_sigmas, velocity_loss
from stableavatar.training.objective import Moment, Objective
from stableavatar.training.order import generator_of

# What is trained of a model that begins with published weights: the layers and the adapter.
_PUBLISHED = re.compile(r"(^|\.)(blocks|vocal_projector)\.")


class AvatarObjective(Objective):
    """The transformer in training."""

    part = "transformer"

    def __init__(self, network: nn.Module, config: TrainingConfig):
        super().__init__(network, config)
        if config.workers.gradient_checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator]

    def forward(self, batch: Sample, moment: Moment) -> dict[str, Tensor]:
        """The loss of a batch of encoded windows and their `seed`s."""
        config = self.config
        device = batch["mean"].device
        draws = [generator_of(int(seed), "noise") for seed in batch["seed"]]
        eps, noise = (torch.stack([_normal(batch["mean"][0], draw) for draw in draws]).to(device) for _ in range(2))
        clean = batch["mean"] + (batch["logvar"] / 2).exp() * eps
        noisy = add_noise(clean, noise, self._sigmas(len(draws), moment).to(device))
        silent = [bool(torch.rand((), generator=draw) < config.augment.silence) for draw in draws]
        shared = generator_of(config.seed, "step", moment.step)
        weights = choose_weights(batch["face"], batch["lip"], config.loss, shared)
        clip_level = bool(torch.rand((), generator=shared) < config.augment.clip_level)
        hearing = torch.tensor([float(not quiet) for quiet in silent], device=device)
        as_context = config.augment.silence_as == "context"
        audio = batch["audio"] if as_context else batch["audio"] * hearing.view(-1, 1, 1)
        predicted = self.network(
            torch.cat([noisy.latents_BCFHW, batch["portrait"]], dim=1),
            noisy.timestep_B,
            batch["text"],
            batch["image"],
            audio,
            list(range(len(draws))),
            hearing_G=hearing if as_context else None,
            clip_level=clip_level,
        )
        loss = velocity_loss(predicted, noisy.target_BCFHW, weights, config.loss)
        error = (predicted.detach().float() - noisy.target_BCFHW).square()
        inside = (1, 2, 3, 4)  # a sample
        lip_B = (error * batch["lip"]).mean(dim=inside) / batch["lip"].mean(dim=inside).clamp(min=1e-3)
        return {"loss": loss, "error": error.mean(), "lip_error": lip_B.mean()}

    def trained(self) -> list[str]:
        """The published choice, or everything."""
        names = super().trained()
        if self.config.lora is not None:
            return [name for name in names if is_vocal(name) or ".lora_" in name]
        return names if self.config.train == "all" else [name for name in names if _PUBLISHED.search(name)]

    def layers(self) -> list[nn.Module]:
        """The transformer's layers, and the adapter."""
        transformer: Any = self.network
        return [*transformer.blocks, transformer.vocal_projector]

    def _sigmas(self, num_samples: int, moment: Moment) -> Tensor:
        """The noise levels of this batch, of those of the whole step: in the order in which the run takes samples."""
        everywhere = generator_of(self.config.seed, "sigmas", moment.step)
        num_parts = moment.place.num_workers * moment.num_batches
        sigmas = stratified_sigmas(num_samples * num_parts, self.config.shift, everywhere)
        return sigmas.view(num_parts, num_samples)[moment.part]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator)
