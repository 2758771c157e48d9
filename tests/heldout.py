"""Videos of drawn people whom no training has seen, with voices and sentences it has not heard, and what is in them."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from stableavatar.api import StableAvatar
from stableavatar.drawn.draw import draw
from stableavatar.drawn.judge import Judged, judge_frames
from stableavatar.drawn.likeness import Likeness
from stableavatar.drawn.scene import Clip, plan_clip
from stableavatar.drawn.sentences import HELD_OUT
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.vae import decode_frames, encode_video
from stableavatar.segments import as_video, to_pixels
from stableavatar.units import SPEECH_RATE
from stableavatar.video.film import open_film, read_frames

FIRST_SEED = 1_000_000
NUM_FRAMES = 81  # one window
NO_MODULATION = -1.0  # in place of a time step


@dataclass(frozen=True, kw_only=True)
class Take:
    """A video to make. Its portrait is the clip's first frame, with the mouth as it happens to be."""

    seed: int  # of the clip
    num_frames: int = NUM_FRAMES
    speech_seed: int | None = None  # of another clip, whose sound is heard
    adapter_time: float | None = None  # 0 to 1000, what the adapter is told in every step; None: the truth
    choices: tuple[tuple[str, Any], ...] = ()  # for the call, as `stableavatar.choices.CHOICES`

    @property
    def name(self) -> str:
        """Another take has another name."""
        return f"{self.seed}-{self.num_frames}-{hashlib.sha256(repr(self).encode()).hexdigest()[:12]}"


@lru_cache(maxsize=64)
def clip_of(seed: int, num_frames: int = NUM_FRAMES) -> Clip:
    """A clip that was held out."""
    return plan_clip(seed, HELD_OUT, num_frames)


def true_frames(clip: Clip, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Its frames as they are drawn, uint8 RGB [H, W, 3]."""
    for pose in clip.poses:
        yield draw(clip.identity, pose, size).image_HWC


@dataclass(frozen=True, kw_only=True)
class Studio:
    """A model, and the folder of the videos that it has made: one that is there is not made again."""

    model: StableAvatar
    folder: Path
    known: dict[Any, Judged] = field(default_factory=dict, repr=False)
    on_film: Callable[[str], None] = lambda _: None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.model.preset.sizes[0]

    def film(self, take: Take) -> Path:
        """The mp4 of a take."""
        path = self.folder / f"{take.name}.mp4"
        if not path.exists():
            self.on_film(take.name)
            self._make(take, str(path))
        return path

    def frames(self, take: Take) -> Iterator[np.ndarray]:
        """The frames that a viewer sees of it, uint8 RGB [H, W, 3]."""
        film = open_film(str(self.film(take)))
        return read_frames(film, 0, film.num_frames)

    def judged(self, take: Take) -> Judged:
        """What is in a take."""
        return self._judged(take, lambda: self.frames(take), take)

    def truth(self, take: Take) -> Judged:
        """The same of the drawn frames of its clip."""
        key = ("truth", take.seed, take.num_frames)
        return self._judged(key, lambda: true_frames(clip_of(take.seed, take.num_frames), self.size), take)

    def ceiling(self, take: Take) -> Judged:
        """The same of the drawn frames after the VAE has encoded and decoded them: no generator can be nearer."""
        key = ("ceiling", take.seed, take.num_frames)
        return self._judged(key, lambda: self._through_vae(take), take)

    def likeness(self, take: Take) -> Likeness:
        """What the identity of a take is measured against."""
        clip = clip_of(take.seed, take.num_frames)
        return Likeness.of(clip.identity, clip.poses[0], self.size)

    def _judged(self, key: Any, frames: Callable[[], Iterable[np.ndarray]], take: Take) -> Judged:
        if key not in self.known:
            self.known[key] = judge_frames(frames(), self.likeness(take))
        return self.known[key]

    @torch.inference_mode()
    def _through_vae(self, take: Take) -> Iterator[np.ndarray]:
        frames = np.stack(list(true_frames(clip_of(take.seed, take.num_frames), self.size)))
        vae = self.model.avatar.vae
        for part in decode_frames(vae, encode_video(vae, as_video(frames))):
            yield from to_pixels(part)

    def _make(self, take: Take, path: str) -> None:
        clip = clip_of(take.seed, take.num_frames)
        speaker = clip if take.speech_seed is None else clip_of(take.speech_seed, take.num_frames)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            portrait, sound = os.path.join(folder, "portrait.png"), os.path.join(folder, "speech.wav")
            Image.fromarray(next(true_frames(clip, self.size))).save(portrait)
            soundfile.write(sound, speaker.speech.samples, SPEECH_RATE, subtype="PCM_16")
            with adapter_told(self.model.avatar.transformer, take.adapter_time):
                self.model.generate(portrait, sound, path, **{"prompt": clip.prompt, **dict(take.choices)})


@contextmanager
def adapter_told(transformer: StableAvatarTransformer, time: float | None) -> Iterator[None]:
    """Inside, the adapter is told this time step in every step, or is not modulated at all; None: nothing changes."""

    def change(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        audio_BAE, latents_BFPD, time_BD, modulation_B6D, num_frames = arguments
        if time == NO_MODULATION:
            return audio_BAE, latents_BFPD, torch.zeros_like(time_BD), torch.zeros_like(modulation_B6D), num_frames
        embedder = transformer.condition_embedder
        steps = embedder.timesteps_proj(time_BD.new_full((len(time_BD),), time, dtype=torch.float32))
        told_BD = embedder.time_embedder(steps.to(time_BD.dtype))
        told_B6D = embedder.time_proj(embedder.act_fn(told_BD)).unflatten(1, (6, -1))
        return audio_BAE, latents_BFPD, told_BD, told_B6D, num_frames

    hook = transformer.vocal_projector.register_forward_pre_hook(change) if time is not None else None
    try:
        yield
    finally:
        if hook:
            hook.remove()
