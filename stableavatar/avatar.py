"""One portrait, one voice, one video: what the actors of a cluster and a call from Python share.

Shapes: B batch, C channels, F latent frames, H W height and width, V video frames, A audio tokens, E encoder width.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from transformers import CLIPVisionModel, Wav2Vec2Model

from stableavatar.errors import BrokenVideo, OutOfMemory
from stableavatar.model.attention import set_attention
from stableavatar.model.conditions import audio_network, embed_image, embed_speech, image_network
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.lora import Lora, lora_applied, read_lora
from stableavatar.model.memory import Memory, choose_mode, free_bytes
from stableavatar.model.networks import IMAGE, TRANSFORMER, VAE
from stableavatar.model.vae import decode_frames, encode_portrait
from stableavatar.model.weights import empty_network, load_network
from stableavatar.presets import Preset
from stableavatar.reproducible import reproducible
from stableavatar.sampling.denoiser import Conditions, guided_velocity
from stableavatar.sampling.guidance import Weights, guidance_weights, native_weights, schedule_weights
from stableavatar.sampling.plan import PLANS, Plan
from stableavatar.sampling.sampler import draw_noise, sample
from stableavatar.sampling.scales import Scale
from stableavatar.sampling.schedulers import SCHEDULERS
from stableavatar.sampling.settings import Sampling
from stableavatar.sampling.windows import RAMPS
from stableavatar.units import PIXELS_PER_LATENT, latents_for
from stableavatar.video.writer import VideoWriter

CPU_THREADS = 1  # a generator on a CPU shares it with the other stages


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


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What making one video took."""

    num_windows: int
    sample_s: float
    decode_s: float  # decoding and encoding to H.264
    peak_device_bytes: int  # 0 without a GPU


@dataclass(frozen=True, kw_only=True)
class Avatar:
    """The generator: image encoder, audio encoder, transformer and VAE, and where they live."""

    preset: Preset
    image_encoder: CLIPVisionModel
    audio_encoder: Wav2Vec2Model
    transformer: StableAvatarTransformer
    vae: AutoencoderKLWan
    memory: Memory

    @classmethod
    def load(
        cls,
        preset: Preset,
        device: str,
        *,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load the networks of a preset.

        Args:
            preset: which networks, where their weights come from, where they live while they work, and which kernel
                their attention uses.
            device: where they compute.
            dtype: number type of the transformer and the image encoder; by default bfloat16 on a GPU and float32 on a
                CPU. The VAE and the audio encoder are small and lose by rounding: they are float32 always.

        Raises:
            WeightsError: the preset's files are missing, damaged, or not those of this model.
            ValueError: there is no such memory mode or kernel, or the kernel does not work on this device.
        """
        is_plain_cpu = torch.device(device).type == "cpu" and not preset.memory.startswith("fp8")
        dtype = dtype or (torch.float32 if is_plain_cpu else torch.bfloat16)
        mode = _fitting_mode(preset, device, dtype) if preset.memory == "auto" else preset.memory
        home = device if mode == "full" else "cpu"  # the others are changed before they move
        networks = dict(
            image_encoder=image_network(preset, home, dtype),
            audio_encoder=audio_network(preset, home),
            transformer=load_network(TRANSFORMER, preset, home, dtype),
            vae=load_network(VAE, preset, home, torch.float32),
        )
        placed = Memory(
            networks=(networks["vae"], networks["image_encoder"], networks["audio_encoder"]),
            transformer=networks["transformer"],
            device=torch.device(device),
            mode=mode,
        )
        set_attention(networks["transformer"], preset.attention, placed.device, dtype)
        return cls(preset=preset, memory=placed, **networks)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.memory.device

    def read_lora(self, path: str) -> Lora:
        """Read a LoRA file for this model.

        Raises:
            BadInput: the file cannot be read, or does not fit.
        """
        return read_lora(path, self.transformer)

    @torch.inference_mode()
    def generate(
        self, request: VideoRequest, path: str, *, on_progress: Callable[[int], None] = lambda _: None
    ) -> VideoReport:
        """Make one video and write it to `path`.

        Args:
            request: what to make it from.
            path: the mp4 file to write.
            on_progress: called with the number of window-steps that are newly done; a negative number takes back
                those from before memory ran out and the video was started over.

        Raises:
            OutOfMemory: the device cannot hold this video.
            BrokenVideo: the model gave values that are not finite, or the file could not be written.
        """
        progress = _Progress(on_progress)
        try:
            with reproducible(CPU_THREADS):
                return self._make(request, path, progress)
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # Out here the error no longer holds the tensors that were made on the way to it.
        if self.memory.lower():
            progress.start_over()
            try:
                with reproducible(CPU_THREADS):
                    return self._make(request, path, progress)
            except torch.OutOfMemoryError as error:
                reason = str(error)
        size = f"{request.width}x{request.height}"
        raise OutOfMemory(f"{self.device} has too little memory for a video of {size}: {reason}")

    def _make(self, request: VideoRequest, path: str, progress: "_Progress") -> VideoReport:
        _reset_peak(self.device)
        plan = self._plan(request)
        started = time.monotonic()
        with lora_applied(self.transformer, request.loras):
            latents = self._sample(request, plan, progress.advance)
        sampled = time.monotonic()
        self._write(latents, request, path)
        return VideoReport(
            num_windows=len(plan.windows),
            sample_s=sampled - started,
            decode_s=time.monotonic() - sampled,
            peak_device_bytes=_peak(self.device),
        )

    def _plan(self, request: VideoRequest) -> Plan:
        window_latents = request.sampling.window_latents or self.preset.window_latents
        return PLANS[request.sampling.mode](request.num_frames, window_latents, request.overlap)

    def _sample(self, request: VideoRequest, plan: Plan, on_window: Callable[[], None]) -> Tensor:
        height, width = request.height // PIXELS_PER_LATENT, request.width // PIXELS_PER_LATENT
        noise = draw_noise((1, self.vae.config.z_dim, plan.num_latents, height, width), request.seed)
        conditions = self._conditions(request, plan)
        return sample(
            guided_velocity(self.transformer, conditions, step_weights(request), plan.window_latents),
            noise.to(self.device),
            plan.windows,
            RAMPS[request.sampling.blend](request.overlap),
            SCHEDULERS[request.sampling.scheduler](request.num_steps, self.preset.shift),
            on_window,
        )

    def _conditions(self, request: VideoRequest, plan: Plan) -> Conditions:
        portrait = torch.from_numpy(request.portrait_HWC.copy()).to(self.device)
        portrait_BCHW = (portrait.permute(2, 0, 1)[None].float() / 127.5 - 1).contiguous()
        prompts = [torch.from_numpy(np.array(e)) for e in (request.prompt_embeds, request.negative_prompt_embeds)]
        return Conditions(
            portrait_BCFHW=encode_portrait(self.vae, portrait_BCHW, plan.window_latents),
            image_BIE=embed_image(self.image_encoder, portrait_BCHW),
            text_BTE=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self.device),
            audio=[embed_speech(self.audio_encoder, speech) for speech in plan.cut_speech(request.speech)],
        )

    def _write(self, latents: Tensor, request: VideoRequest, path: str) -> None:
        with VideoWriter(
            path,
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            sound_path=request.sound_path,
        ) as writer:
            num_missing = request.num_frames
            needed = latents_for(request.num_frames)  # the VAE is causal: what comes later changes nothing
            for frames_BCVHW in decode_frames(self.vae, latents[:, :, :needed]):
                pixels_VHWC = to_pixels(frames_BCVHW)
                writer.write(pixels_VHWC)
                num_missing -= len(pixels_VHWC)
            # As the published code plans a video, up to three frames are not made: the last one is held.
            for _ in range(num_missing):
                writer.write(pixels_VHWC[-1:])


def _fitting_mode(preset: Preset, device: str, dtype: torch.dtype) -> str:
    """The memory mode to load a preset in, before any of its weights is read."""
    free = free_bytes(torch.device(device))
    if free is None:
        return "full"
    transformer, image_encoder = (empty_network(part, preset).to(dtype) for part in (TRANSFORMER, IMAGE))
    return choose_mode([image_encoder, empty_network(VAE, preset)], transformer, free)


class _Progress:
    """Counts window-steps, to take them back."""

    def __init__(self, on_progress: Callable[[int], None]):
        self.on_progress = on_progress
        self.num_done = 0

    def advance(self) -> None:
        self.num_done += 1
        self.on_progress(1)

    def start_over(self) -> None:
        self.on_progress(-self.num_done)
        self.num_done = 0


def step_weights(request: VideoRequest) -> Sequence[Weights]:
    """The weights of the guidance rows in each step of a video.

    Raises:
        ValueError: a scale is not written as `stableavatar.sampling.scales` reads it.
    """
    sampling = request.sampling
    if sampling.guidance == "native":
        return schedule_weights(native_weights, request.num_steps, sampling.native_audio, sampling.native_pair)
    return schedule_weights(guidance_weights, request.num_steps, request.text_scale, request.audio_scale)


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
