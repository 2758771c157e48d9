"""A window of a clip as what the transformer is trained on: the frozen networks run here, once for each window.

Shapes: C 16 latent channels, F latent frames, H W latent height and width, T text tokens, I image tokens, A audio
tokens, E an encoder's width.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import CLIPVisionModel, Wav2Vec2Model

from stableavatar.model.conditions import (
    PAUSE_RMS,
    TextEncoder,
    audio_network,
    embed_image,
    embed_speech,
    image_network,
)
from stableavatar.model.networks import VAE
from stableavatar.model.vae import encode_portrait, encode_posterior
from stableavatar.model.weights import encoders_hash, load_network
from stableavatar.presets import Preset
from stableavatar.segments import as_video
from stableavatar.training.clips import ClipWindow
from stableavatar.training.config import TrainingConfig

Sample = dict[str, Tensor]


def pause_rms(config: TrainingConfig) -> float:
    """Below which loudness a run hears silence, as the sampling that it trains for does."""
    return 0.0 if config.augment.silence_as == "reference" else PAUSE_RMS


def encoding_hash(preset: Preset, least_rms: float) -> str:
    """Hash of everything that windows depend on besides their clips: the frozen networks, and what is silence.

    Raises:
        WeightsError: a file is missing.
    """
    networks = encoders_hash(preset)
    return networks if least_rms == PAUSE_RMS else f"{networks}-{least_rms:g}"


NUM_PROMPTS = 256  # that are kept encoded, some 0.5 MB each: most clips have one of three, but each may have its own


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The frozen networks: VAE, image, audio and text encoder."""

    vae: AutoencoderKLWan
    image: CLIPVisionModel
    audio: Wav2Vec2Model
    text: TextEncoder
    least_rms: float = PAUSE_RMS  # of a speech that is heard, see `pause_rms`
    prompts: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, preset: Preset, device: str, least_rms: float = PAUSE_RMS) -> Self:
        """Load the encoders of a preset. The text encoder stays on the CPU: it is the largest, and prompts are few.

        Raises:
            WeightsError: their files are missing or damaged.
        """
        return cls(
            vae=load_network(VAE, preset, device, torch.float32),
            image=image_network(preset, device),
            audio=audio_network(preset, device),
            text=TextEncoder.load(preset, "cpu"),
            least_rms=least_rms,
        )

    @torch.inference_mode()
    def encode(self, window: ClipWindow) -> Sample:
        """Encode one window.

        Returns `mean` and `logvar` [C, F, H, W] of the normalised latents, `portrait` [C + 4, F, H, W], `image` [I, E],
        `text` [T, E], `audio` [A, E], and the masks `face` and `lip` [1, F, H, W] in 0 .. 1.
        """
        mean, logvar = encode_posterior(self.vae, as_video(window.frames_VHWC))
        size = mean.shape[2:]
        reference_BCHW = as_video(window.reference_HWC[None])[:, :, 0]
        audio = embed_speech(self.audio, np.clip(window.speech * window.gain, -1, 1), self.least_rms)
        sample = dict(
            mean=mean,
            logvar=logvar,
            portrait=encode_portrait(self.vae, reference_BCHW.to(self.vae.device), size[0]),
            image=embed_image(self.image, reference_BCHW.to(self.image.device)),
            text=self._text(window.prompt)[None],
            audio=audio,
            face=_latent_mask(window.masks_VHW["face_masks"], size),
            lip=_latent_mask(window.masks_VHW["lip_masks"], size),
        )
        return {name: tensor[0].cpu() for name, tensor in sample.items()}

    def _text(self, prompt: str) -> Tensor:
        if prompt not in self.prompts:
            if len(self.prompts) >= NUM_PROMPTS:
                self.prompts.clear()
            self.prompts[prompt] = torch.from_numpy(self.text.encode(prompt))
        return self.prompts[prompt]


def _latent_mask(mask_VHW: np.ndarray, size: torch.Size) -> Tensor:
    mask = torch.from_numpy(mask_VHW)[None, None].float() / 255
    return F.interpolate(mask, size=tuple(size), mode="trilinear", align_corners=False)


def collate(samples: Iterable[Sample]) -> Sample:
    """Samples of one size as a batch. Text is filled up with zeros, as the transformer does.

    Raises:
        ValueError: they are of different sizes.
    """
    samples = list(samples)
    batch = {}
    for name in samples[0]:
        parts = [sample[name] for sample in samples]
        if name == "text":
            batch[name] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        elif len({part.shape for part in parts}) > 1:
            raise ValueError(f"samples of different sizes in one batch: {[tuple(part.shape) for part in parts]}")
        else:
            batch[name] = torch.stack(parts)
    return batch
