"""Flow matching: what is asked of the model, and how its errors are weighted.

    x_t = (1 - sigma) * x_0 + sigma * noise,    target = noise - x_0

Shapes: B batch, C channels, F latent frames, H W latent height and width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stableavatar.training.config import Loss

NUM_TIMESTEPS = 1000


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Latents on their way, and what leads on from them."""

    latents_BCFHW: Tensor
    target_BCFHW: Tensor
    timestep_B: Tensor  # in [0, 1000]


def stratified_sigmas(num_samples: int, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels of all samples of a step, [num_samples] in (0, 1].

    The index of the time step is uniform, and one falls into each of `num_samples` equal parts of the schedule, in
    random order: those of one step differ as much as they can, on however many workers they lie.
    """
    strata = (torch.arange(num_samples) + torch.rand(num_samples, generator=generator)) / num_samples
    strata = strata[torch.randperm(num_samples, generator=generator)]
    sigmas = ((strata * NUM_TIMESTEPS).floor().clamp(max=NUM_TIMESTEPS - 1) + 1) / NUM_TIMESTEPS
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def add_noise(clean_BCFHW: Tensor, noise_BCFHW: Tensor, sigma_B: Tensor) -> Noisy:
    """The noisy latents of each sample at its level."""
    sigma = sigma_B.view(-1, 1, 1, 1, 1).to(clean_BCFHW)
    return Noisy(
        latents_BCFHW=(1 - sigma) * clean_BCFHW + sigma * noise_BCFHW,
        target_BCFHW=noise_BCFHW - clean_BCFHW,
        timestep_B=sigma_B * NUM_TIMESTEPS,
    )


def choose_weights(face_BCFHW: Tensor, lip_BCFHW: Tensor, loss: Loss, generator: torch.Generator) -> Tensor:
    """The weights of a step's errors, [B, 1, F, H, W]: one of the three kinds, drawn for the whole step."""
    kinds = (1 + face_BCFHW + lip_BCFHW, face_BCFHW, lip_BCFHW)
    shares = torch.tensor([loss.whole, loss.face, loss.lip])
    return kinds[int(torch.multinomial(shares, 1, generator=generator))]


def velocity_loss(predicted_BCFHW: Tensor, target_BCFHW: Tensor, weights_BCFHW: Tensor, loss: Loss) -> Tensor:
    """Weighted squared error, mixed with that of the differences between neighbours. One number."""
    error = _mean_error(predicted_BCFHW - target_BCFHW, weights_BCFHW, loss)
    if not loss.motion:
        return error
    axis = {"frames": 2, "reference": 1}[loss.motion_axis]
    moved = (predicted_BCFHW - target_BCFHW).diff(dim=axis)
    weights = weights_BCFHW[:, :, 1:] if axis == 2 else weights_BCFHW
    return (1 - loss.motion) * error + loss.motion * _mean_error(moved, weights, loss)


def _mean_error(difference_BCFHW: Tensor, weights_BCFHW: Tensor, loss: Loss) -> Tensor:
    error_B = (difference_BCFHW.float().square() * weights_BCFHW).mean(dim=(1, 2, 3, 4))
    if loss.normalise:
        error_B = error_B / weights_BCFHW.mean(dim=(1, 2, 3, 4)).clamp(min=1e-3)
    return error_B.mean()
