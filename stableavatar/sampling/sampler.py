"""The sampler: one state for the whole video, and within a step every window on its own.

Blending the windows' velocities and stepping once gives the same as stepping each window and blending the latents,
because all windows of a step read the same latents.

Shapes: B batch, C channels, F latent frames, H W latent height and width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stableavatar.sampling.schedulers import gathered, is_of_its_kind, restore
from stableavatar.sampling.state import SamplerState, to_host
from stableavatar.sampling.windows import Window

# (latents of a window [B, C, F, H, W], timestep [], step, index of the window) -> velocity, of the latents' shape
Velocity = Callable[[Tensor, Tensor, int, int], Tensor]

# Is given what makes a snapshot in host memory, to be called at once if at all.
OnWindow = Callable[[Callable[[], SamplerState]], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Latents that stay, where only a part of a video is sampled again: the model sees them beside the new ones."""

    latents_BCFHW: Tensor  # finished
    noise_BCFHW: Tensor  # what they begin with
    weights_F: Tensor  # of the new: 1 where nothing is known, 0 where all is

    def blended(self, latents_BCFHW: Tensor, sigma: float) -> Tensor:
        """The sampler's latents, of which `sigma` is noise, with the known ones where they are known."""
        weights = self.weights_F.to(latents_BCFHW)[:, None, None]
        known = (1 - sigma) * self.latents_BCFHW + sigma * self.noise_BCFHW
        return known.to(latents_BCFHW) * (1 - weights) + latents_BCFHW * weights


def draw_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal float32 noise that depends on `seed` alone, never on the device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def sample(
    velocity: Velocity,
    start: SamplerState,
    windows: Sequence[Window],
    ramp: Tensor,
    scheduler: Any,
    device: torch.device | str = "cpu",
    on_window: OnWindow = lambda _: None,
    known: Known | None = None,
) -> Tensor:
    """Turn noise into latents, [B, C, F, H, W] on the device.

    Args:
        velocity: the guided model.
        start: where to start: noise over all latent frames of the video, or the snapshot of an earlier attempt, which
            gives the same latents bit for bit.
        windows: cover all latent frames, in order.
        ramp: weights of a later window over the latent frames that it shares with earlier ones.
        scheduler: one of diffusers', new, with its time steps set; it steps once for the whole video.
        device: where the arithmetic is done.
        on_window: called after each window of each step.
        known: latents that are not to change; none: all are new.
    """
    latents = start.latents_BCFHW.to(device)
    total = _continued(start.total_BCFHW, latents)
    restore(scheduler, start.scheduler, device)
    num_steps, num_done = len(scheduler.timesteps), start.num_done(len(windows))
    del start  # its tensors need not be held while the video is made
    # Copied before the loop: within it the device waits for nothing.
    timesteps = scheduler.timesteps.to(device)
    # In the first step all windows see pure noise: the later window simply replaces the earlier one.
    fades = {True: torch.ones_like(ramp).to(device), False: ramp.to(device)}
    for place in range(num_done, num_steps * len(windows)):
        step, index = divmod(place, len(windows))
        span = windows[index].span
        part = velocity(latents[:, :, span], timesteps[step], step, index)
        weights = windows[index].weights(fades[step == 0])[:, None, None]
        total[:, :, span] = total[:, :, span] * (1 - weights) + part * weights
        if index == len(windows) - 1:
            latents = scheduler.step(total, scheduler.timesteps[step], latents, return_dict=False)[0]
            if known is not None:
                latents = known.blended(latents, float(scheduler.sigmas[step + 1]))
            total = torch.zeros_like(latents)
        on_window(partial(_snapshot, place + 1, windows, latents, total, scheduler))
    return latents


def check_start(start: SamplerState, shape: Sequence[int], windows: Sequence[Window], scheduler: Any) -> None:
    """Raises ValueError if the state is not of a video of that shape, in these windows and with such a scheduler."""
    num_steps = len(scheduler.timesteps)
    num_latents = windows[start.num_windows - 1].span.stop if start.num_windows in range(1, len(windows)) else 0
    total = start.total_BCFHW
    fits = (
        start.step in range(num_steps + 1)
        and start.num_windows in range(len(windows) if start.step < num_steps else 1)
        and is_of_its_kind(scheduler, start.scheduler)
        and _is(start.latents_BCFHW, shape)
        and (_is(total, (*shape[:2], num_latents, *shape[3:])) if num_latents else total is None)
    )
    if not fits:
        raise ValueError(f"the state after {start.step} steps and {start.num_windows} windows is of another video")


def _is(tensor: Any, shape: Sequence[int]) -> bool:
    return isinstance(tensor, Tensor) and tensor.dtype == torch.float32 and tensor.shape == tuple(shape)


def _continued(saved: Tensor | None, latents: Tensor) -> Tensor:
    """The blended velocities of a step, whose first frames may be there already."""
    total = torch.zeros_like(latents)
    if saved is not None:
        total[:, :, : saved.shape[2]] = saved.to(latents.device)
    return total


def _snapshot(num_done: int, windows: Sequence[Window], latents: Tensor, total: Tensor, scheduler: Any) -> SamplerState:
    step, index = divmod(num_done, len(windows))
    return SamplerState(
        step=step,
        num_windows=index,
        latents_BCFHW=to_host(latents),
        total_BCFHW=to_host(total, windows[index - 1].span.stop) if index else None,
        scheduler=gathered(scheduler) if step < len(scheduler.timesteps) else {},  # behind the end nobody asks
    )
