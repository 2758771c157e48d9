"""One video as it is asked for, and what making it took. Apart from the networks, which load for seconds.

Shapes: H W height and width, T text tokens, E encoder width.
"""

from dataclasses import dataclass, field

import numpy as np

from stableavatar.correction.plan import Correction
from stableavatar.model.lora import Lora
from stableavatar.sampling.scales import Scale
from stableavatar.sampling.settings import Sampling
from stableavatar.tracks import Track


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """Everything that one video is made from."""

    portrait_HWC: np.ndarray  # uint8 RGB, already of the video's size
    speech: np.ndarray  # float32 [samples], 16 kHz mono: what drives the lips
    sound_path: str  # AAC file: what the listener hears
    num_frames: int
    width: int  # pixels
    height: int
    seed: int
    num_steps: int
    text_scale: Scale
    audio_scale: Scale
    overlap: int  # latent frames
    prompt_embeds: np.ndarray  # float32 [T, E]
    negative_prompt_embeds: np.ndarray
    sampling: Sampling = field(default_factory=Sampling)
    loras: tuple[tuple[Lora, float], ...] = ()  # with weights
    language: str = ""  # of the sound, ISO 639-2
    tracks: tuple[Track, ...] = ()  # further sounds, and subtitles
    correction: Correction | None = None  # of a finished video; `speech` and `sound_path` are corrected already


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What making one video took."""

    num_windows: int
    num_tries: int = 1  # 2 if memory ran out once
    num_steps_resumed: int = 0  # window-steps that were not done, but found done by an earlier attempt
    sample_s: float
    decode_s: float  # decoding and encoding to H.264
    peak_device_bytes: int  # 0 without a GPU
