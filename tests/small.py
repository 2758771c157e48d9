"""A model that makes a real video within seconds, what to ask of it, and a device with too little memory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stableavatar.audio.decode import encode_sound
from stableavatar.presets import tiny
from stableavatar.request import VideoRequest
from tests.media import write_tone

PRESET = replace(tiny(), window_latents=5, overlap=2)  # short windows: 17 frames


def small_request(folder: Path, num_frames: int) -> VideoRequest:
    """Noise as portrait and speech, one step. The sound goes to `folder`."""
    random = np.random.default_rng(0)
    source, sound = folder / f"{num_frames}.wav", folder / f"{num_frames}.m4a"
    write_tone(source, duration_s=num_frames / 25)
    encode_sound(str(source), str(sound), duration_s=num_frames / 25)
    return VideoRequest(
        portrait_HWC=random.integers(0, 256, (160, 96, 3), dtype=np.uint8),
        speech=random.standard_normal(num_frames * 640).astype(np.float32),
        sound_path=str(sound),
        num_frames=num_frames,
        width=96,
        height=160,
        seed=3,
        num_steps=1,
        text_scale=3.0,
        audio_scale=5.0,
        overlap=2,
        prompt_embeds=random.standard_normal((7, 32)).astype(np.float32),
        negative_prompt_embeds=random.standard_normal((4, 32)).astype(np.float32),
    )


class Exhausted(torch.nn.Module):
    """Runs out of memory in its first forward passes."""

    def __init__(self, transformer: torch.nn.Module, passes: Sequence[int]):
        super().__init__()
        self.calls, self.passes = 0, passes
        self.hook = transformer.register_forward_pre_hook(self.check)

    def check(self, *_: object) -> None:
        self.calls += 1
        if self.calls in self.passes:
            raise torch.OutOfMemoryError("tried to allocate")
