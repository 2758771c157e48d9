"""A small Wan VAE from nothing: pixels through latents to the same pixels, on crops of windows.

Options of the run: `windows` (pairs of frames, 4n + 1 of them, and pixels of a crop's side; each batch is of one of
them: small and long as well as large and short), `first_windows` for the first `num_first` batches (pictures alone
are learned much sooner), `kl` (weight of the Kullback-Leibler term), `lip` (weight of the lips' pixels above that of
all others), `squares` (weight of the squared error), `edges` (weight of that of the differences between neighbours).

Shapes: B batch, C channels, V video frames, H W height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stableavatar.presets import Preset
from stableavatar.training.clips import Clip, read_frames, read_masks
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample, as_video
from stableavatar.training.objective import Moment, Objective, Source
from stableavatar.training.order import Draw, generator_of, seed_of

DEFAULTS: dict[str, Any] = {
    "windows": [[1, 96], [5, 64], [9, 48], [17, 48]],
    "first_windows": [[1, 96]],
    "num_first": 0,
    "kl": 1e-6,
    "lip": 4.0,
    "squares": 2.0,
    "edges": 0.5,
}
_NUM_MEASURED = 48  # clips that the latents' mean and deviation are measured on


class Crops:
    """Crops of clips at random places and times; every second one around the lips."""

    def __init__(self, clips: Sequence[Clip], options: Mapping[str, Any], batch_size: int = 1):
        self.clips, self.batch_size = clips, batch_size
        given = {**DEFAULTS, **options}
        self.windows, self.first_windows, self.num_first = (
            given[name] for name in ("windows", "first_windows", "num_first")
        )
        self.num_frames = max(num_frames for num_frames, _ in self.windows)  # that a clip must have

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
        windows = self.first_windows if batch < self.num_first else self.windows
        return windows[seed_of("window", batch) % len(windows)]


class VaeObjective(Objective):
    """The VAE in training."""

    part = "vae"

    def __init__(self, network: Any, config: TrainingConfig):
        super().__init__(network, config)
        self.options = {**DEFAULTS, **config.options}

    def forward(self, batch: Sample, moment: Moment) -> dict[str, Tensor]:
        """The loss of a batch of crops."""
        vae: Any = self.network
        video = batch["video"]
        posterior = vae.encode(video).latent_dist
        draws = generator_of(self.config.seed, "latents", moment.step, moment.batch, moment.place.rank)
        noise = torch.randn(posterior.mean.shape, generator=draws).to(video.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        difference = decoded.float() - video
        pixels = (difference.abs() * (1 + self.options["lip"] * batch["lip"])).mean()
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        squares = difference.square().mean()
        loss = pixels + self.options["squares"] * squares + self.options["edges"] * edges
        loss = loss + self.options["kl"] * divergence
        psnr = 10 * torch.log10(4 / squares.detach())
        return {"loss": loss, "psnr_db": psnr, "kl": divergence.detach()}

    @torch.inference_mode()
    def finish(self, source: Source, preset: Preset) -> Mapping[str, Any]:
        """The mean and deviation of the latents that it makes: by these they are normalised from now on."""
        assert isinstance(source, Crops)
        vae: Any = self.network
        vae.eval()
        latents = []
        for clip in source.clips[:: max(1, len(source.clips) // _NUM_MEASURED)]:
            video = as_video(read_frames(clip, 0, source.num_frames)).to(vae.device)
            latents.append(vae.encode(video).latent_dist.mode()[0].flatten(1).cpu())
        values = torch.cat(latents, dim=1)
        measured = {"latents_mean": values.mean(dim=1).tolist(), "latents_std": values.std(dim=1).tolist()}
        return {"vae": {**preset.vae, **measured}}
