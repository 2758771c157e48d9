"""A small wav2vec2 from nothing: sound to the class of the mouth's shape (viseme) at each of its tokens, about 50 a
second. The classifier is left behind; the hidden states are what the adapter hears.

The hidden states are also asked when they are. The adapter cuts them into slices and attends to a slice as to a bag
of tokens: nothing tells it their order but what they say themselves. A large wav2vec2 knows its place from the edges of
the window, which its wide positional convolution sees; a small one has to be asked.

Clips need a `truth.json`, as `stableavatar draw-data` writes it.

Shapes: B batch, S samples of sound, A audio tokens, E the encoder's width.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stableavatar.drawn.espeak import Phoneme
from stableavatar.drawn.visemes import NUM_VISEMES, viseme_track
from stableavatar.training.clips import Clip, read_sound, read_truth
from stableavatar.training.config import AudioOptions, TrainingConfig
from stableavatar.training.encode import Sample
from stableavatar.training.objective import Moment, Objective
from stableavatar.training.order import Draw
from stableavatar.units import SAMPLES_PER_FRAME, SPEECH_RATE

_TOKENS_PER_S = 50
_PERIODS = (8, 16, 32, 64, 128, 256)  # tokens, of the sines and cosines that tell the time; 8 are a latent frame
_TIME_WEIGHT = 2.0  # of that error beside that of the visemes
_SNR_DB = (5.0, 40.0)  # of the noise, against the speech


class Utterances:
    """Windows of clips' sound, and what is said in them."""

    def __init__(self, clips: Sequence[Clip], options: AudioOptions):
        self.clips, self.options = clips, options
        self.num_frames = options.num_frames  # that a clip must have

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, draw: Draw) -> Sample:
        """`speech` [S] of unit variance and `visemes` [A], the class of each token."""
        clip, random = self.clips[draw.index], np.random.default_rng(draw.seed)
        options = self.options
        fastest = min(1 + options.speed, clip.num_frames / self.num_frames)
        speed = random.uniform(min(1 / (1 + options.speed), fastest), fastest)
        first = round(random.uniform(0, clip.num_frames - self.num_frames * speed) * SAMPLES_PER_FRAME)
        num_samples = self.num_frames * SAMPLES_PER_FRAME
        speech = _faster(read_sound(clip, first, round(num_samples * speed)), num_samples)
        speech[1:] += random.uniform(-options.tone, options.tone) * speech[:-1]
        if random.random() < options.noise:
            loudness = speech.std() * 10 ** (-random.uniform(*_SNR_DB) / 20)
            speech = speech + random.normal(size=len(speech)).astype(np.float32) * loudness
        speech = (speech - speech.mean()) / np.sqrt(speech.var() + 1e-7)
        num_tokens = len(speech) // 320 - 1  # of wav2vec2's convolutions
        times_s = first / SPEECH_RATE + speed * (np.arange(num_tokens) + 0.6) / _TOKENS_PER_S  # a token hears 25 ms
        phonemes = [Phoneme(name=name, start_s=start, end_s=end) for name, start, end in read_truth(clip)["phonemes"]]
        return {
            "speech": torch.from_numpy(speech.astype(np.float32)),
            "visemes": torch.from_numpy(viseme_track(phonemes, times_s)).long(),
        }


def _faster(speech: np.ndarray, num_samples: int) -> np.ndarray:
    """Played faster, and higher, so that `num_samples` are left; float32."""
    places = np.arange(num_samples) * (len(speech) / num_samples)
    return np.interp(places, np.arange(len(speech)), speech).astype(np.float32)


class AudioObjective(Objective):
    """The audio encoder in training, with the classifier that it is left without in the end."""

    part = "audio"
    leaves_out = True  # wav2vec2 drops whole layers

    def __init__(self, network: Any, config: TrainingConfig):
        super().__init__(network, config)
        self.classify = nn.Linear(network.config.hidden_size, NUM_VISEMES)
        self.tell_time = nn.Linear(network.config.hidden_size, 2 * len(_PERIODS))

    def forward(self, batch: Sample, moment: Moment) -> dict[str, Tensor]:
        """The loss of a batch of windows."""
        del moment
        hidden_BAE = self.network(batch["speech"]).last_hidden_state
        scores = self.classify(hidden_BAE)[:, : batch["visemes"].shape[1]].flatten(0, 1)
        visemes = batch["visemes"][:, : hidden_BAE.shape[1]].flatten()
        right = (scores.argmax(dim=1) == visemes).float().mean()
        clock_AE = _clock(hidden_BAE.shape[1]).to(hidden_BAE.device)
        time_error = F.mse_loss(self.tell_time(hidden_BAE).float(), clock_AE.expand(len(hidden_BAE), -1, -1))
        loss = F.cross_entropy(scores.float(), visemes) + _TIME_WEIGHT * time_error
        return {"loss": loss, "accuracy": right.detach(), "time_error": time_error.detach()}


def _clock(num_tokens: int) -> Tensor:
    """Sine and cosine of each token's place in the window, [A, 2 * periods]."""
    angle = 2 * math.pi * torch.arange(num_tokens)[:, None] / torch.tensor(_PERIODS)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
