"""What is made of a video's frames before any arithmetic: its windows, and the speech that drives each of them.

Two modes. `aligned` is right: full windows, each driven by the speech of exactly its own frames. `reference` does what
the published code does, for comparison: a short last window that the transformer pads with zero tokens, three frames
of speech too many for every window, and up to three video frames fewer.

What the published code does with speech shorter than a window (a blank video, or a loop without end) is not imitated:
both modes are the same there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stableavatar.sampling.windows import Window, padded_latents, plan_published_windows, plan_windows
from stableavatar.units import FRAMES_PER_LATENT, SAMPLES_PER_FRAME, frames_of, latents_for

PUBLISHED_SURPLUS = 3  # video frames of speech that the published code cuts too many


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One video as windows."""

    windows: tuple[Window, ...]
    speech: tuple[slice, ...]  # for each window the samples of speech that drive it
    num_samples: int  # the speech is filled up with silence to this length first
    window_latents: int  # the transformer pads every window to this many latent frames

    @property
    def num_latents(self) -> int:
        """Latent frames of the whole video."""
        return self.windows[-1].span.stop

    def cut_speech(self, speech: np.ndarray) -> list[np.ndarray]:
        """The samples that drive each window, from those of the whole video: float32 [samples], 16 kHz mono."""
        return [self._cut(speech, span) for span in self.speech]

    def _cut(self, speech: np.ndarray, span: slice) -> np.ndarray:
        """One window's samples, with silence only where it reaches past the end: the rest is not copied."""
        part = speech[span]
        num_missing = min(span.stop, self.num_samples) - span.start - len(part)
        return np.pad(part, (0, num_missing)) if num_missing > 0 else part


def plan_aligned(num_frames: int, window_latents: int, overlap: int) -> Plan:
    """Full windows and their own speech, with silence behind its end: at least `num_frames` frames."""
    num_latents = padded_latents(num_frames, window_latents)
    windows = plan_windows(num_latents, window_latents, overlap)
    return Plan(
        windows=windows,
        speech=_spans(windows, frames_of(window_latents)),
        num_samples=frames_of(num_latents) * SAMPLES_PER_FRAME,
        window_latents=window_latents,
    )


def plan_published(num_frames: int, window_latents: int, overlap: int, surplus: int = PUBLISHED_SURPLUS) -> Plan:
    """As the published code: up to three frames fewer than `num_frames`, and speech that does not fit its windows.

    The last window's speech ends with the speech, however short; the transformer stretches it over a whole window.

    Args:
        num_frames: length of the speech in video frames.
        window_latents: latent frames of a window.
        overlap: latent frames that neighbouring windows share.
        surplus: video frames of speech that every window is given beyond its own.
    """
    if num_frames < frames_of(window_latents):
        return plan_aligned(num_frames, window_latents, overlap)
    num_latents = latents_for(num_frames - (num_frames - 1) % FRAMES_PER_LATENT)
    windows = plan_published_windows(num_latents, window_latents, overlap)
    spans = _spans(windows, frames_of(window_latents) + surplus)
    return Plan(windows=windows, speech=spans, num_samples=0, window_latents=window_latents)


PLANS: dict[str, Callable[[int, int, int], Plan]] = {"aligned": plan_aligned, "reference": plan_published}


def num_windows(num_frames: int, window_latents: int, overlap: int, mode: str = "aligned") -> int:
    """Number of windows that a video of `num_frames` frames takes."""
    return len(PLANS[mode](num_frames, window_latents, overlap).windows)


def _spans(windows: tuple[Window, ...], num_frames: int) -> tuple[slice, ...]:
    starts = (FRAMES_PER_LATENT * window.start * SAMPLES_PER_FRAME for window in windows)
    return tuple(slice(start, start + num_frames * SAMPLES_PER_FRAME) for start in starts)
