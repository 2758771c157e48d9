"""The sampler: one state for the whole video, and within a step every window on its own.

Blending the windows' velocities and stepping once gives the same as stepping each window and blending the latents,
because all windows of a step read the same latents.

Shapes: B batch, C channels, F latent frames, H W latent height and width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stableavatar.sampling.windows import Window

# (latents of a window [B, C, F, H, W], timestep [], step, index of the window) -> velocity, of the latents' shape
Velocity = Callable[[Tensor, Tensor, int, int], Tensor]


def draw_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal float32 noise that depends on `seed` alone, never on the device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def sample(
    velocity: Velocity,
    noise_BCFHW: Tensor,
    windows: Sequence[Window],
    ramp: Tensor,
    scheduler: Any,
    on_window: Callable[[], None] = lambda: None,
) -> Tensor:
    """Turn noise into latents, [B, C, F, H, W].

    Args:
        velocity: the guided model.
        noise_BCFHW: noise over all latent frames of the video.
        windows: cover all latent frames, in order.
        ramp: weights of a later window over the latent frames that it shares with earlier ones.
        scheduler: one of diffusers', with its time steps set; it steps once for the whole video.
        on_window: called after each window of each step.
    """
    latents = noise_BCFHW
    # Copied before the loop: within it the device waits for nothing.
    timesteps = scheduler.timesteps.to(latents.device)
    # In the first step all windows see pure noise: the later window simply replaces the earlier one.
    fades = {True: torch.ones_like(ramp).to(latents.device), False: ramp.to(latents.device)}
    for step, timestep in enumerate(scheduler.timesteps):
        total = torch.zeros_like(latents)
        for index, window in enumerate(windows):
            part = velocity(latents[:, :, window.span], timesteps[step], step, index)
            weights = window.weights(fades[step == 0])[:, None, None]
            total[:, :, window.span] = total[:, :, window.span] * (1 - weights) + part * weights
            on_window()
        latents = scheduler.step(total, timestep, latents, return_dict=False)[0]
    return latents
