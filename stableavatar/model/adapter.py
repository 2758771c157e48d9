"""StableAvatar's own part: audio tokens cut into one slice per latent frame, and the time-step-aware adapter.

The adapter looks at the noisy latents and the time step, so it runs at every step.
Source: StableAvatar (arXiv 2508.08248), section 3.2.

Shapes: B batch, F latent frames, V video frames, P patches of one latent frame, A audio tokens, n tokens of one
slice, E width of the audio encoder, D width of the transformer.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from einops import rearrange
from torch import Tensor, nn

from stableavatar.units import FRAMES_PER_LATENT, latents_for

WIDENING = 4  # audio tokens added to both ends of every slice


def slice_ranges(num_tokens: int, num_frames: int) -> list[tuple[int, int]]:
    """First and last audio token (inclusive) of each latent frame's slice, before widening.

    Latent frame 0 is centred on token 0, the others on the middle of their four video frames. A range may reach
    outside the tokens that exist. All ranges have the same length.
    """
    tokens_per_frame = num_tokens / num_frames
    half = int(tokens_per_frame * FRAMES_PER_LATENT / 2)
    ranges = []
    for latent in range(1, latents_for(num_frames)):
        first_frame = FRAMES_PER_LATENT * (latent - 1) + 1
        last_frame = FRAMES_PER_LATENT * latent + 1
        centre = int((tokens_per_frame * first_frame + tokens_per_frame * last_frame) / 2) - 1
        ranges.append((centre - half, centre + half))
    second_start = ranges[0][0] if ranges else half
    return [(second_start - 2 * half, second_start), *ranges]


@lru_cache(maxsize=64)
def _slice_index(num_tokens: int, num_frames: int, device: torch.device) -> Tensor:
    """Token index of every place in every slice, [F, n]; -1 is a zero. Zeros stand behind the valid tokens."""
    rows = []
    for first, last in slice_ranges(num_tokens, num_frames):
        wanted = range(first - WIDENING, last + WIDENING + 1)
        valid = [token for token in wanted if 0 <= token < num_tokens]
        rows.append(valid + [-1] * (len(wanted) - len(valid)))
    return torch.tensor(rows, device=device)


def cut_slices(tokens_BAD: Tensor, num_frames: int) -> Tensor:
    """Cut projected audio tokens into one slice per latent frame: [B, A, D] -> [B, F, n, D]."""
    index_Fn = _slice_index(tokens_BAD.shape[1], num_frames, tokens_BAD.device)
    slices_BFnD = tokens_BAD[:, index_Fn.clamp(min=0)]
    return slices_BFnD * (index_Fn >= 0)[..., None].to(tokens_BAD.dtype)


class AudioProjection(nn.Module):
    """Linear layers with a LayerNorm each, from the audio encoder's width to the transformer's: [B, A, E] -> [B, A, D].

    `widths` has one stage in the 1.3B model (768, 1536) and two in the 14B model (768, 2048, 5120).
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        stages = pairwise(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Linear(source, target, bias=False), nn.LayerNorm(target)) for source, target in stages
        )

    def forward(self, tokens_BAE: Tensor) -> Tensor:
        """Project one window's audio tokens."""
        for stage in self.stages:
            tokens_BAE = stage(tokens_BAE)
        return tokens_BAE


class AdapterBlock(nn.Module):
    """One block of the adapter: modulated residual, cross-attention to the latents, feed-forward."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, eps: float = 1e-6):
        super().__init__()
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True)
        self.attn2 = WanAttention(
            dim=dim,
            heads=num_heads,
            dim_head=dim // num_heads,
            eps=eps,
            cross_attention_dim_head=dim // num_heads,
            processor=WanAttnProcessor(),
        )
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, audio_BFnD: Tensor, latents_BFPD: Tensor, modulation_B6D: Tensor) -> Tensor:
        """Change the audio tokens in the light of the latents: [B, F, n, D] -> [B, F, n, D]."""
        table = self.scale_shift_table + modulation_B6D.float()
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (part[:, None] for part in table.chunk(6, dim=1))
        audio = audio_BFnD.float()

        audio = audio + (self.norm1(audio) * (1 + scale) + shift) * gate

        query = rearrange(self.norm2(audio).type_as(latents_BFPD), "b f n d -> (b f) n d")
        context = rearrange(latents_BFPD, "b f p d -> (b f) p d")
        attended = self.attn2(query, context)
        audio = audio + rearrange(attended, "(b f) n d -> b f n d", b=len(audio_BFnD)).float()

        hidden = self.norm3(audio) * (1 + ff_scale) + ff_shift
        audio = audio + self.ffn(hidden.type_as(latents_BFPD)).float() * ff_gate
        return audio.type_as(audio_BFnD)


class VocalProjector(nn.Module):
    """The adapter: audio tokens of one window -> the audio context that every transformer layer attends to."""

    def __init__(self, audio_dims: Sequence[int], num_heads: int, num_layers: int, ffn_dim: int | None = None):
        super().__init__()
        dim = audio_dims[-1]
        self.proj_model = AudioProjection(audio_dims)
        self.blocks = nn.ModuleList(AdapterBlock(dim, num_heads, ffn_dim or 2 * dim) for _ in range(num_layers))
        self.norm_out = FP32LayerNorm(dim, 1e-6, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.proj_out = nn.Linear(dim, dim)

    def forward(
        self, audio_BAE: Tensor, latents_BFPD: Tensor, time_BD: Tensor, modulation_B6D: Tensor, num_frames: int
    ) -> Tensor:
        """Return the audio context [B, F, n, D].

        Args:
            audio_BAE: hidden states of the audio encoder.
            latents_BFPD: patch embeddings of the noisy latents.
            time_BD: the transformer's time embedding.
            modulation_B6D: its projection to six modulations.
            num_frames: video frames that the audio tokens span.
        """
        audio_BFnD = cut_slices(self.proj_model(audio_BAE), num_frames)
        for block in self.blocks:
            audio_BFnD = block(audio_BFnD, latents_BFPD, modulation_B6D)
        shift, scale = (part[:, None] for part in (self.scale_shift_table + time_BD.float()[:, None]).chunk(2, dim=1))
        hidden = self.norm_out(audio_BFnD.float()) * (1 + scale) + shift
        return self.proj_out(hidden.type_as(audio_BFnD))
