"""An endless video as overlapping windows: where they lie, and how a later one fades into what earlier ones wrote.

All counts are latent frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stableavatar.units import latents_for


@dataclass(frozen=True, kw_only=True)
class Window:
    """Latent frames [start, start + length) of the video. The first `num_shared` of them lie in earlier windows too."""

    start: int
    length: int
    num_shared: int = 0

    @property
    def span(self) -> slice:
        """The window's latent frames as an index."""
        return slice(self.start, self.start + self.length)

    def weights(self, ramp: Tensor) -> Tensor:
        """Weight of this window against the earlier ones, [length]: nothing, then `ramp` up to the seam's end, then 1.

        A window that shares more than the ramp is long stays out of the frames before the ramp.
        """
        fade = ramp[: self.num_shared]
        before = ramp.new_zeros(self.num_shared - len(fade))
        after = ramp.new_ones(self.length - self.num_shared)
        return torch.cat([before, fade, after])


def padded_latents(num_frames: int, window_latents: int) -> int:
    """Latent frames to generate for `num_frames` video frames: at least one whole window."""
    return max(window_latents, latents_for(num_frames))


def plan_windows(num_latents: int, window_latents: int, overlap: int) -> tuple[Window, ...]:
    """Cover a video with full windows. The last one ends with the video, sharing more than the others if need be.

    Raises:
        ValueError: the video is shorter than a window, or the overlap is not smaller than a window.
    """
    _check(num_latents, window_latents, overlap)
    last_start = num_latents - window_latents
    starts = [*range(0, last_start, window_latents - overlap), last_start]
    windows = [Window(start=0, length=window_latents)]
    for previous, start in pairwise(starts):
        windows.append(Window(start=start, length=window_latents, num_shared=previous + window_latents - start))
    return tuple(windows)


def plan_published_windows(num_latents: int, window_latents: int, overlap: int) -> tuple[Window, ...]:
    """Cover a video as the published code does: the last window is what is left, shorter than the others."""
    _check(num_latents, window_latents, overlap)
    stride = window_latents - overlap
    starts = range(0, num_latents - overlap, stride)
    return tuple(
        Window(start=start, length=min(window_latents, num_latents - start), num_shared=overlap if start else 0)
        for start in starts
    )


def _check(num_latents: int, window_latents: int, overlap: int) -> None:
    if num_latents < window_latents:
        raise ValueError(f"a video of {num_latents} latent frames is shorter than a window of {window_latents}")
    if not 0 <= overlap < window_latents:
        raise ValueError(f"overlap is {overlap}; it must lie between 0 and {window_latents - 1}")


def uniform_ramp(overlap: int) -> Tensor:
    """Weights of the later window that rise evenly from 0 to 1, [overlap]. One shared frame is halved."""
    return torch.linspace(0, 1, overlap) if overlap > 1 else torch.full((overlap,), 0.5)


def log_ramp(overlap: int) -> Tensor:
    """Weights of the later window that rise fast, then slowly, from 0 to 1, [overlap]."""
    if overlap < 2:
        return uniform_ramp(overlap)
    rise = torch.log(1 + uniform_ramp(overlap) * (math.e - 1))
    return (rise - rise.min()) / (rise.max() - rise.min())


RAMPS: dict[str, Callable[[int], Tensor]] = {"uniform": uniform_ramp, "log": log_ramp}
