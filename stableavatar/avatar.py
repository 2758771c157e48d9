"""One portrait, one voice, one video: what the actors of a cluster and a call from Python share.

Shapes: B batch, C channels, F latent frames, H W height and width, V video frames, A audio tokens, E encoder width.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import CLIPVisionModel, Wav2Vec2Model

from stableavatar.errors import BrokenVideo, OutOfMemory
from stableavatar.model.conditions import audio_network, embed_image, embed_speech, image_network
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.networks import TRANSFORMER, VAE
from stableavatar.model.vae import decode_frames, encode_portrait
from stableavatar.model.weights import load_network
from stableavatar.presets import Preset
from stableavatar.sampling.guidance import guidance_weights
from stableavatar.sampling.sampler import Velocity, draw_noise, euler_scheduler, sample
from stableavatar.sampling.windows import Window, padded_latents, plan_windows, uniform_ramp
from stableavatar.units import FRAMES_PER_LATENT, PIXELS_PER_LATENT, SAMPLES_PER_FRAME, frames_of
from stableavatar.video.writer import VideoWriter


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
    text_scale: float
    audio_scale: float
    overlap: int  # latent frames
    prompt_embeds: np.ndarray  # float32 [T, E]
    negative_prompt_embeds: np.ndarray


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What making one video took."""

    num_windows: int
    sample_s: float
    decode_s: float  # decoding and encoding to H.264
    peak_device_bytes: int  # 0 without a GPU


@dataclass(frozen=True, kw_only=True)
class _Conditions:
    """What steers the windows of one video, on the device."""

    portrait_BCFHW: Tensor  # mask and latents, the same for every window
    image_BIE: Tensor
    text_BTE: Tensor  # prompt, negative prompt
    audio: list[Tensor]  # of each window, [1, A, E]


@dataclass(frozen=True, kw_only=True)
class Avatar:
    """The generator: image encoder, audio encoder, transformer and VAE on one device."""

    preset: Preset
    image_encoder: CLIPVisionModel
    audio_encoder: Wav2Vec2Model
    transformer: StableAvatarTransformer
    vae: AutoencoderKLWan

    @classmethod
    def load(cls, preset: Preset, device: str, dtype: torch.dtype | None = None) -> Self:
        """Load the networks of a preset onto a device.

        Args:
            preset: which networks, and where their weights come from.
            device: where they shall live.
            dtype: number type of the transformer and the image encoder; by default bfloat16 on a GPU and float32 on a
                CPU. The VAE and the audio encoder are small and lose by rounding: they are float32 always.

        Raises:
            WeightsError: the preset's files are missing, damaged, or not those of this model.
        """
        dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
        return cls(
            preset=preset,
            image_encoder=image_network(preset, device, dtype),
            audio_encoder=audio_network(preset, device),
            transformer=load_network(TRANSFORMER, preset, device, dtype),
            vae=load_network(VAE, preset, device, torch.float32),
        )

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return self.transformer.device

    @torch.inference_mode()
    def generate(
        self, request: VideoRequest, path: str, *, on_progress: Callable[[int], None] = lambda _: None
    ) -> VideoReport:
        """Make one video and write it to `path`.

        Args:
            request: what to make it from.
            path: the mp4 file to write.
            on_progress: called with the number of window-steps that are newly done.

        Raises:
            OutOfMemory: the device cannot hold this video.
            BrokenVideo: the model gave values that are not finite, or the file could not be written.
        """
        _reset_peak(self.device)
        try:
            windows = self._plan(request)
            started = time.monotonic()
            latents = self._sample(request, windows, lambda: on_progress(1))
            sampled = time.monotonic()
            self._write(latents, request, path)
        except torch.OutOfMemoryError as error:
            size = f"{request.width}x{request.height}"
            raise OutOfMemory(f"{self.device} has too little memory for a video of {size}: {error}") from error
        return VideoReport(
            num_windows=len(windows),
            sample_s=sampled - started,
            decode_s=time.monotonic() - sampled,
            peak_device_bytes=_peak(self.device),
        )

    def _plan(self, request: VideoRequest) -> tuple[Window, ...]:
        num_latents = padded_latents(request.num_frames, self.preset.window_latents)
        return plan_windows(num_latents, self.preset.window_latents, request.overlap)

    def _sample(self, request: VideoRequest, windows: tuple[Window, ...], on_window: Callable[[], None]) -> Tensor:
        last = windows[-1]
        shape = (
            1,
            self.vae.config.z_dim,
            last.start + last.length,
            request.height // PIXELS_PER_LATENT,
            request.width // PIXELS_PER_LATENT,
        )
        conditions = self._conditions(request, windows)
        return sample(
            self._velocity(conditions, guidance_weights(request.text_scale, request.audio_scale)),
            draw_noise(shape, request.seed).to(self.device),
            windows,
            uniform_ramp(request.overlap),
            euler_scheduler(request.num_steps, self.preset.shift),
            on_window,
        )

    def _conditions(self, request: VideoRequest, windows: tuple[Window, ...]) -> _Conditions:
        portrait = torch.from_numpy(request.portrait_HWC.copy()).to(self.device)
        portrait_BCHW = (portrait.permute(2, 0, 1)[None].float() / 127.5 - 1).contiguous()
        prompts = [torch.from_numpy(np.array(e)) for e in (request.prompt_embeds, request.negative_prompt_embeds)]
        return _Conditions(
            portrait_BCFHW=encode_portrait(self.vae, portrait_BCHW, self.preset.window_latents),
            image_BIE=embed_image(self.image_encoder, portrait_BCHW),
            text_BTE=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self.device),
            audio=[embed_speech(self.audio_encoder, cut_speech(request.speech, window)) for window in windows],
        )

    def _velocity(self, conditions: _Conditions, weights: dict) -> Velocity:
        """The transformer under guidance, as a function of latents, time step and window."""
        rows = list(weights)
        dtype = self.transformer.dtype
        text_BTE = conditions.text_BTE[[0 if row.prompted else 1 for row in rows]].to(dtype)
        image_BIE = conditions.image_BIE.to(dtype).expand(len(rows), -1, -1)
        audio_index = [0 if row.hears else None for row in rows]
        scale_B = torch.tensor(list(weights.values()), device=self.device).view(-1, 1, 1, 1, 1)

        def velocity(latents_BCFHW: Tensor, timestep: Tensor, index: int) -> Tensor:
            inputs = torch.cat([latents_BCFHW, conditions.portrait_BCFHW], dim=1).expand(len(rows), -1, -1, -1, -1)
            audio = conditions.audio[index].to(dtype) if any(row.hears for row in rows) else None
            timestep_B = timestep.to(self.device).expand(len(rows))
            predicted = self.transformer(inputs.to(dtype), timestep_B, text_BTE, image_BIE, audio, audio_index)
            return (predicted.float() * scale_B).sum(dim=0, keepdim=True)

        return velocity

    def _write(self, latents: Tensor, request: VideoRequest, path: str) -> None:
        with VideoWriter(
            path,
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            sound_path=request.sound_path,
        ) as writer:
            for frames_BCVHW in decode_frames(self.vae, latents):
                writer.write(to_pixels(frames_BCVHW))


def cut_speech(speech: np.ndarray, window: Window) -> np.ndarray:
    """The samples that drive one window: all its video frames, with silence behind the end of the speech."""
    start = FRAMES_PER_LATENT * window.start * SAMPLES_PER_FRAME
    num_samples = frames_of(window.length) * SAMPLES_PER_FRAME
    part = speech[start : start + num_samples]
    return np.pad(part, (0, num_samples - len(part)))


def to_pixels(frames_BCVHW: Tensor) -> np.ndarray:
    """Frames in [-1, 1] as bytes: [1, 3, V, H, W] -> uint8 [V, H, W, 3].

    Raises:
        BrokenVideo: a value is not finite.
    """
    if not torch.isfinite(frames_BCVHW).all():
        raise BrokenVideo(
            "the model gave values that are not finite (NaN or infinite). Check its weights or use a wider number type."
        )
    pixels = ((frames_BCVHW[0].float() + 1) * 127.5).round().clamp(0, 255)
    return pixels.permute(1, 2, 3, 0).to(torch.uint8).cpu().numpy()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
