"""A small Wan VAE from nothing: pixels through latents to the same pixels, on crops of windows.

Shapes: B batch, C channels, V video frames, H W height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stableavatar.presets import Preset
from stableavatar.segments import as_video
from stableavatar.training.clips import Clip, read_frames, read_masks
from stableavatar.training.config import VaeOptions
from stableavatar.training.encode import Sample
from stableavatar.training.objective import Moment, Objective, Source
from stableavatar.training.order import Draw, generator_of, seed_of

_NUM_MEASURED = 48  # clips that the latents' mean and deviation are measured on


class Crops:
    """Crops of clips at random places and times; every second one around the lips."""

    def __init__(self, clips: Sequence[Clip], options: VaeOptions, batch_size: int = 1):
        self.clips, self.options, self.batch_size = clips, options, batch_size
        used = (*options.windows, *(options.first_windows if options.num_first else ()))
        self.num_frames = max(num_frames for num_frames, _ in used)  # that a clip must have
        self.num_pixels = max(num_pixels for _, num_pixels in used)  # and each of its sides

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, draw: Draw) -> Sample:
        """`video` [3, V, H, W] in [-1, 1] and `lip` [1, V, H, W] in 0 .. 1."""
        clip, random = self.clips[draw.index], np.random.default_rng(draw.seed)
        num_frames, crop = self._window(draw.position // self.batch_size)
        start = int(random.integers(clip.num_frames - num_frames + 1))
        lips = read_masks(clip, "lip_masks", start, num_frames)
        corner = [int(random.integers(size - crop + 1)) for size in lips.shape[1:]]
        places = np.nonzero(lips[0])
        if len(places[0]) and random.random() < 0.5:
            wanted = (int(place.mean()) - crop // 2 for place in places)
            corner = [int(np.clip(place, 0, size - crop)) for place, size in zip(wanted, lips.shape[1:], strict=True)]
        top, left = corner
        part = np.s_[:, top : top + crop, left : left + crop]
        return {
            "video": as_video(read_frames(clip, start, num_frames)[part])[0],
            "lip": torch.from_numpy(lips[part].copy())[None].float() / 255,
        }

    def _window(self, batch: int) -> tuple[int, int]:
        """Frames and pixels of all samples of a batch."""
        windows = self.options.first_windows if batch < self.options.num_first else self.options.windows
        return windows[seed_of("window", batch) % len(windows)]


class VaeObjective(Objective):
    """The VAE in training."""

    part = "vae"
    leaves_out = True  # pictures do not pass the layers that put frames together

    def forward(self, batch: Sample, moment: Moment) -> dict[str, Tensor]:
        """The loss of a batch of crops."""
        vae: Any = self.network
        options, video = self.config.vae, batch["video"]
        posterior = vae.encode(video).latent_dist
        draws = generator_of(self.config.seed, "latents", moment.step, moment.part)
        noise = torch.randn(posterior.mean.shape, generator=draws).to(video.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = decoded.float() - video
        pixels = (difference.abs() * (1 + options.lip * batch["lip"])).mean()
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        divergence = posterior.kl().sum() / posterior.mean.numel()
        squares = difference.square().mean()
        loss = pixels + options.squares * squares + options.edges * edges
        loss = loss + options.kl * divergence
        psnr = 10 * torch.log10(4 / squares.detach())
        return {"loss": loss, "psnr_db": psnr, "kl": divergence.detach()}

    @torch.inference_mode()
    def finish(self, network: Any, source: Source, preset: Preset) -> Mapping[str, Any]:
        """The mean and deviation of the latents that it makes: by these they are normalised from now on."""
        assert isinstance(source, Crops)
        latents = []
        for clip in source.clips[:: max(1, len(source.clips) // _NUM_MEASURED)]:
            video = as_video(read_frames(clip, 0, source.num_frames)).to(network.device)
            latents.append(network.encode(video).latent_dist.mode()[0].flatten(1).cpu())
        values = torch.cat(latents, dim=1)
        measured = {"latents_mean": values.mean(dim=1).tolist(), "latents_std": values.std(dim=1).tolist()}
        return {"vae": {**preset.vae, **measured}}
