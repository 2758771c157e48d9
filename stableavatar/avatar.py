"""One portrait, one voice, one video: what the actors of a cluster and a call from Python share.

Shapes: B batch, C channels, F latent frames, H W height and width, V video frames, A audio tokens, E encoder width.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import CLIPVisionModel, Wav2Vec2Model

from stableavatar.checkpoint import Checkpoint, NoCheckpoint
from stableavatar.correction.picture import Recalled, recall, write_corrected
from stableavatar.correction.plan import Correction, plan_correction
from stableavatar.course import Course
from stableavatar.errors import OutOfMemory
from stableavatar.model.attention import set_attention
from stableavatar.model.conditions import PAUSE_RMS, audio_network, embed_image, embed_speech, image_network
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.lora import Lora, lora_applied, read_lora
from stableavatar.model.memory import Memory, choose_mode, free_bytes, full_bytes
from stableavatar.model.networks import IMAGE, TRANSFORMER, VAE
from stableavatar.model.vae import encode_portrait
from stableavatar.model.weights import empty_network, load_network
from stableavatar.presets import Preset
from stableavatar.reproducible import reproducible
from stableavatar.request import VideoReport, VideoRequest
from stableavatar.sampling.denoiser import Conditions, guided_velocity
from stableavatar.sampling.guidance import Weights, guidance_weights, native_weights, schedule_weights
from stableavatar.sampling.plan import PLANS, Plan
from stableavatar.sampling.sampler import Known, check_start, draw_noise, sample
from stableavatar.sampling.schedulers import SCHEDULERS
from stableavatar.sampling.state import SamplerState, to_host
from stableavatar.sampling.windows import RAMPS
from stableavatar.segments import write_video
from stableavatar.units import PIXELS_PER_LATENT

CPU_THREADS = 1  # a generator on a CPU shares it with the other stages
NUM_PORTRAITS = 16  # encoded portraits that are kept on the device, some 8 MB each
NO_CHECKPOINT = NoCheckpoint()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Avatar:
    """The generator: image encoder, audio encoder, transformer and VAE, and where they live."""

    preset: Preset
    image_encoder: CLIPVisionModel
    audio_encoder: Wav2Vec2Model
    transformer: StableAvatarTransformer
    vae: AutoencoderKLWan
    memory: Memory
    portraits: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)  # encoded

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
        self,
        request: VideoRequest,
        path: str,
        *,
        on_progress: Callable[[int], None] = lambda _: None,
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> VideoReport:
        """Make one video and write it to `path`.

        Args:
            request: what to make it from.
            path: the mp4 file to write. While it is made, its folder holds the finished segments too.
            on_progress: called with the number of window-steps that are newly done; first with those that an earlier
                attempt has done, if any. A negative number takes back those that were lost when memory ran out; 0 says
                that the video goes on while it is decoded.
            checkpoint: where an earlier attempt has left the video, and where this one leaves it.

        Raises:
            OutOfMemory: the device cannot hold this video.
            BrokenVideo: the model gave values that are not finite.
            StorageError: the file could not be written.
        """
        course = Course(on_progress, checkpoint)
        for num_tries in (1, 2):
            try:
                with reproducible(CPU_THREADS):
                    return self._make(request, path, course, num_tries)
            except torch.OutOfMemoryError as error:
                reason = str(error)
            # Out here the error no longer holds the tensors that were made on the way to it.
            self.portraits.clear()
            if num_tries == 2 or not self.memory.lower():
                break
        size = f"{request.width}x{request.height}"
        raise OutOfMemory(f"{self.device} has too little memory for a video of {size}: {reason}")

    def _make(self, request: VideoRequest, path: str, course: Course, num_tries: int) -> VideoReport:
        _reset_peak(self.device)
        started = time.monotonic()
        old = self._recall(request, request.correction) if request.correction else None
        plan = old.plan.plan if old else self._plan(request)
        with lora_applied(self.transformer, request.loras):
            latents = self._sample(request, plan, course, old.known if old else None)
        sampled = time.monotonic()

        def offer() -> None:
            course.offer(lambda: SamplerState(step=request.num_steps, latents_BCFHW=to_host(latents)))

        sounds: dict[str, Any] = {name: getattr(request, name) for name in ("sound_path", "language", "tracks")}
        if old:
            write_corrected(self.vae, old, latents, path, **sounds, on_latent=offer)
        else:
            write_video(
                self.vae,
                latents,
                path,
                width=request.width,
                height=request.height,
                num_frames=request.num_frames,
                **sounds,
                checkpoint=course.checkpoint,
                on_latent=offer,
            )
        return VideoReport(
            num_windows=len(plan.windows),
            num_tries=num_tries,
            num_steps_resumed=course.num_resumed,
            sample_s=sampled - started,
            decode_s=time.monotonic() - sampled,
            peak_device_bytes=_peak(self.device),
        )

    def _plan(self, request: VideoRequest) -> Plan:
        return PLANS[request.sampling.mode](request.num_frames, self._window_latents(request), request.overlap)

    def _window_latents(self, request: VideoRequest) -> int:
        return request.sampling.window_latents or self.preset.window_latents

    def _recall(self, request: VideoRequest, correction: Correction) -> Recalled:
        """What is known of the video that is corrected. Its noise is that which it was made from."""
        seams = (self._window_latents(request), request.overlap, request.sampling.blend)
        plan = plan_correction(correction.spans_s, request.num_frames, *seams)
        noise = draw_noise(self._shape(request, plan.num_latents), request.seed)
        return recall(self.vae, correction.video_path, plan, noise)

    def _shape(self, request: VideoRequest, num_latents: int) -> tuple[int, ...]:
        height, width = request.height // PIXELS_PER_LATENT, request.width // PIXELS_PER_LATENT
        return (1, self.vae.config.z_dim, num_latents, height, width)

    def _sample(self, request: VideoRequest, plan: Plan, course: Course, known: Known | None = None) -> Tensor:
        scheduler = SCHEDULERS[request.sampling.scheduler](request.num_steps, self.preset.shift)
        start = [self._start(request, plan, scheduler, course.checkpoint, known)]
        course.begin(start[0].num_done(len(plan.windows)))
        if start[0].step == request.num_steps:
            return start[0].latents_BCFHW.to(self.device)
        conditions = self._conditions(request, plan)
        return sample(
            guided_velocity(self.transformer, conditions, step_weights(request), plan.window_latents),
            start.pop(),  # so that nobody holds the noise while the video is made
            plan.windows,
            RAMPS[request.sampling.blend](request.overlap),
            scheduler,
            self.device,
            course.advance,
            known,
        )

    def _start(
        self, request: VideoRequest, plan: Plan, scheduler: Any, checkpoint: Checkpoint, known: Known | None
    ) -> SamplerState:
        """Where an earlier attempt has left the video, or its noise."""
        shape = self._shape(request, plan.num_latents)
        path = checkpoint.state()
        if path is not None:
            try:
                state = SamplerState.read(path)
                check_start(state, shape, plan.windows, scheduler)
                return state
            except ValueError as error:
                logger.warning("a video starts over: %s", error)
        return SamplerState(latents_BCFHW=known.noise_BCFHW if known else draw_noise(shape, request.seed))

    def _conditions(self, request: VideoRequest, plan: Plan) -> Conditions:
        prompts = [torch.from_numpy(np.array(e)) for e in (request.prompt_embeds, request.negative_prompt_embeds)]
        portrait_BCFHW, image_BIE = self._portrait(request.portrait_HWC, plan.window_latents)
        least_rms = 0.0 if request.sampling.mode == "reference" else PAUSE_RMS
        return Conditions(
            portrait_BCFHW=portrait_BCFHW,
            image_BIE=image_BIE,
            text_BTE=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(self.device),
            audio=[embed_speech(self.audio_encoder, speech, least_rms) for speech in plan.cut_speech(request.speech)],
        )

    def _portrait(self, portrait_HWC: np.ndarray, window_latents: int) -> tuple[Tensor, Tensor]:
        """The portrait as VAE and image encoder see it. The last few are kept: one portrait often has many rows."""
        content = hashlib.sha256(np.ascontiguousarray(portrait_HWC).data).hexdigest()
        key = (content, portrait_HWC.shape, window_latents)
        found = self.portraits.pop(key, None)
        if found is None:
            portrait = torch.from_numpy(portrait_HWC.copy()).to(self.device)
            portrait_BCHW = (portrait.permute(2, 0, 1)[None].float() / 127.5 - 1).contiguous()
            image = encode_portrait(self.vae, portrait_BCHW, window_latents)
            found = image, embed_image(self.image_encoder, portrait_BCHW)
        else:
            self.memory.rest()  # as after encoding
        self.portraits[key] = found  # behind all others
        for oldest in list(self.portraits)[:-NUM_PORTRAITS]:
            del self.portraits[oldest]
        return found


def device_bytes(preset: Preset) -> int:
    """Device memory that a generator takes with everything on it, by an estimate; no weights are read."""
    return full_bytes(*_empty_networks(preset, torch.bfloat16))


def _fitting_mode(preset: Preset, device: str, dtype: torch.dtype) -> str:
    """The memory mode to load a preset in, before any of its weights is read."""
    free = free_bytes(torch.device(device))
    return "full" if free is None else choose_mode(*_empty_networks(preset, dtype), free)


def _empty_networks(preset: Preset, dtype: torch.dtype) -> tuple[list[nn.Module], StableAvatarTransformer]:
    transformer, image_encoder = (empty_network(part, preset).to(dtype) for part in (TRANSFORMER, IMAGE))
    return [image_encoder, empty_network(VAE, preset)], transformer


def step_weights(request: VideoRequest) -> Sequence[Weights]:
    """The weights of the guidance rows in each step of a video.

    Raises:
        ValueError: a scale is not written as `stableavatar.sampling.scales` reads it.
    """
    sampling = request.sampling
    if sampling.guidance == "native":
        return schedule_weights(native_weights, request.num_steps, sampling.native_audio, sampling.native_pair)
    return schedule_weights(guidance_weights, request.num_steps, request.text_scale, request.audio_scale)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
