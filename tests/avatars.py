"""Generators that make real video files from nothing, for the tests of the flow."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from stableavatar.checkpoint import Checkpoint
from stableavatar.model.lora import Lora
from stableavatar.presets import Preset
from stableavatar.request import VideoReport, VideoRequest
from tests.media import video_writer


class NoiseAvatar:
    """Writes noise that depends on the seed alone. Seed 666 kills the process, 13 is blank, 14 raises."""

    def generate(
        self, request: VideoRequest, path: str, *, on_progress: Callable[[int], None], checkpoint: Checkpoint
    ) -> VideoReport:
        if request.seed == 666:
            os._exit(1)
        if request.seed == 14:
            raise RuntimeError("something nobody expected")
        noise = np.random.default_rng(request.seed)
        size: dict[str, Any] = {"width": request.width, "height": request.height, "num_frames": request.num_frames}
        tracks: dict[str, Any] = {"language": request.language, "tracks": request.tracks}
        with video_writer(path, sound_path=request.sound_path, **tracks, **size) as writer:
            for _ in range(request.num_frames):
                frame = noise.integers(0, 256, (1, request.height, request.width, 3), dtype=np.uint8)
                writer.write(frame * (request.seed != 13))
        on_progress(request.num_steps)
        return VideoReport(num_windows=1, sample_s=0.1, decode_s=0.2, peak_device_bytes=0)

    def read_lora(self, path: str) -> Lora:
        raise NotImplementedError


def load_noise(preset: Preset, device: str) -> NoiseAvatar:
    return NoiseAvatar()


class NoWords:
    """Embeds every prompt as the same numbers."""

    def encode(self, prompt: str) -> np.ndarray:
        return np.zeros((1, 1), np.float32)


def load_no_words(preset: Preset, device: str) -> NoWords:
    """What takes the place of a text encoder where no network looks at its words."""
    return NoWords()
