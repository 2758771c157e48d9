"""Pixels to latents and back, with Wan's causal video VAE from diffusers. Decoding streams: memory does not grow.

Shapes: B batch, C channels (3 colours or 16 latents), F latent frames, V video frames, H W height and width.
"""

import math
from collections.abc import Generator, Iterable
from fractions import Fraction

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from stableavatar.units import FRAMES_PER_LATENT, frames_of


def encode_video(vae: AutoencoderKLWan, video_BCVHW: Tensor) -> Tensor:
    """Normalised latents (the distribution's mode) of a video in [-1, 1]: [B, 3, V, H, W] -> [B, 16, F, H/8, W/8]."""
    latents = vae.encode(video_BCVHW.to(vae.dtype)).latent_dist.mode()
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def encode_posterior(vae: AutoencoderKLWan, video_BCVHW: Tensor) -> tuple[Tensor, Tensor]:
    """The same, but the whole distribution: mean and logarithm of the variance, each [B, 16, F, H/8, W/8]."""
    posterior = vae.encode(video_BCVHW.to(device=vae.device, dtype=vae.dtype)).latent_dist
    mean, std = _statistics(vae, posterior.mean)
    return (posterior.mean - mean) / std, posterior.logvar - 2 * std.log()


@torch.inference_mode()
def encode_frames(vae: AutoencoderKLWan, chunks: Iterable[Tensor]) -> Generator[Tensor]:
    """Normalised latents of a video that comes piece by piece; memory does not grow.

    `chunks` in [-1, 1], [B, 3, V, 8H, 8W]: one frame, then four at a time. Yields a latent frame for each,
    [B, 16, 1, H, W]: exactly what encoding the whole video gives.
    """
    vae.clear_cache()
    try:
        for index, chunk_BCVHW in enumerate(chunks):
            if chunk_BCVHW.shape[2] != (FRAMES_PER_LATENT if index else 1):
                raise ValueError(f"chunk {index} has {chunk_BCVHW.shape[2]} frames: the first has 1, others have 4")
            latents = _encode_chunk(vae, chunk_BCVHW)
            mean, std = _statistics(vae, latents)
            yield (latents - mean) / std
    finally:
        vae.clear_cache()


def encode_portrait(vae: AutoencoderKLWan, portrait_BCHW: Tensor, num_latents: int) -> Tensor:
    """What the transformer sees of the portrait, [B, 20, F, H/8, W/8].

    Four mask channels, 1 on the first latent frame and 0 elsewhere, then the latents of the portrait (in [-1, 1])
    followed by frames of zeros.
    """
    portrait_BCVHW = portrait_BCHW[:, :, None]
    blank = torch.zeros_like(portrait_BCVHW).expand(-1, -1, frames_of(num_latents) - 1, -1, -1)
    latents = encode_video(vae, torch.cat([portrait_BCVHW, blank], dim=2))
    return add_mask(latents)


def add_mask(latents_BCFHW: Tensor) -> Tensor:
    """Put the four mask channels before the portrait's latents: [B, 16, F, H, W] -> [B, 20, F, H, W]."""
    mask = torch.zeros_like(latents_BCFHW[:, :4])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents_BCFHW], dim=1)


@torch.inference_mode()
def decode_frames(vae: AutoencoderKLWan, latents_BCFHW: Tensor, first: int = 0) -> Generator[Tensor]:
    """Decode normalised latents one latent frame at a time, from the latent frame `first` on.

    Yields video frames in [-1, 1], [B, 3, V, 8H, 8W] with V = 1 for the first latent frame of the video and 4 for each
    other one: exactly what decoding the whole video gives, because the VAE is causal and its feature caches are kept.
    """
    mean, std = _statistics(vae, latents_BCFHW)
    start = max(0, first - warm_up_latents(vae))
    vae.clear_cache()
    try:
        for index in range(start, latents_BCFHW.shape[2]):
            latent_BCFHW = latents_BCFHW[:, :, index : index + 1] * std + mean
            frames_BCVHW = _decode_latent(vae, latent_BCFHW, first=index == start)
            if index >= first:
                # Clamping would turn infinity into white; NaN survives it, and is found where the frames are used.
                yield frames_BCVHW.masked_fill(frames_BCVHW.isinf(), torch.nan).clamp(-1, 1)
    finally:
        vae.clear_cache()


def warm_up_latents(vae: AutoencoderKLWan) -> int:
    """Latent frames that the decoder must have seen before one, for its caches to hold what they would from the start.

    A causal convolution over k frames looks back k - 1 frames of its own rate, which doubles with each upsampling in
    time. All of them stand in line: 37.5 latent frames in Wan's decoder.
    """
    return _look_back(vae.decoder, rate=1, change=2)  # upsampling makes two frames of one


def encoder_warm_up_latents(vae: AutoencoderKLWan) -> int:
    """The same for the encoder, which begins at the rate of the video's frames."""
    return _look_back(vae.encoder, rate=FRAMES_PER_LATENT, change=Fraction(1, 2))


def _look_back(network: nn.Module, rate: int | Fraction, change: int | Fraction) -> int:
    """Latent frames that a network looks back; `rate`: frames of its input in one of them."""
    seen = Fraction()
    for name, module in network.named_modules():  # in the order in which they work
        if isinstance(module, nn.Conv3d):
            seen += Fraction(module.kernel_size[0] - 1, 1) / rate
        if name.endswith(".time_conv"):
            rate *= change
    return math.ceil(seen)


@apply_forward_hook  # as below
def _encode_chunk(vae: AutoencoderKLWan, chunk_BCVHW: Tensor) -> Tensor:
    vae._enc_conv_idx = [0]
    chunk_BCVHW = chunk_BCVHW.to(device=vae.device, dtype=vae.dtype)
    moments = vae.encoder(chunk_BCVHW, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx)
    return vae.quant_conv(moments).chunk(2, dim=1)[0]  # the mean, which is the distribution's mode


@apply_forward_hook  # a VAE that waits in host memory comes to the device, as for its own methods
def _decode_latent(vae: AutoencoderKLWan, latent_BCFHW: Tensor, *, first: bool) -> Tensor:
    vae._conv_idx = [0]
    latent_BCFHW = vae.post_quant_conv(latent_BCFHW.to(device=vae.device, dtype=vae.dtype))
    return vae.decoder(latent_BCFHW, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=first)


def _statistics(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    """The VAE's mean and standard deviation of each latent channel, each [1, 16, 1, 1, 1]."""
    mean, std = (
        torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
