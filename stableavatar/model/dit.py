"""The diffusion transformer: Wan 2.1's image-to-video trunk from diffusers, with StableAvatar's audio path.

Each layer's cross-attention reads three contexts with one query: text, image and audio. The results are added before
the one output projection. A latent frame's queries see that frame's audio slice only.

Shapes: B batch, C channels, F latent frames, H W latent height and width, P patches of one latent frame,
L = F * P tokens, T text tokens, I image tokens, G distinct audio rows, n audio tokens of one slice, D width, N heads,
d head width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from einops import rearrange
from torch import Tensor, nn

from stableavatar.model.adapter import VocalProjector
from stableavatar.units import frames_of


class Contexts(NamedTuple):
    """What the queries of a layer attend to besides each other."""

    text_BTD: Tensor
    image_BID: Tensor
    audio_GFnD: Tensor | None  # None: no row of the batch hears anything
    audio_index: tuple[int | None, ...]  # for each row of the batch, its row in audio_GFnD, or None for silence
    clip_level: bool  # every frame attends to all slices (a training augmentation)


class ContextAttnProcessor:
    """Cross-attention to text, image and audio (`Contexts` takes the place of the encoder's hidden states).

    The trunk's own processor tells image from text by counting 512 tokens from the end, and knows no audio.
    """

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Contexts,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend to the three contexts, [B, L, D] -> [B, L, D]. The names of the arguments are the trunk's."""
        contexts = encoder_hidden_states
        query_BLNd = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        text = self._attend(query_BLNd, attn.norm_k(attn.to_k(contexts.text_BTD)), attn.to_v(contexts.text_BTD))
        image = self._attend(
            query_BLNd, attn.norm_added_k(attn.add_k_proj(contexts.image_BID)), attn.add_v_proj(contexts.image_BID)
        )
        attended = text + image + self._hear(attn, query_BLNd, contexts)
        return attn.to_out[1](attn.to_out[0](attended))

    def _attend(self, query_BLNd: Tensor, key_BSD: Tensor, value_BSD: Tensor) -> Tensor:
        num_heads = query_BLNd.shape[2]
        attended = dispatch_attention_fn(
            query_BLNd,
            key_BSD.unflatten(2, (num_heads, -1)),
            value_BSD.unflatten(2, (num_heads, -1)),
            backend=self._attention_backend,
        )
        return attended.flatten(2, 3).type_as(query_BLNd)

    def _hear(self, attn: WanAttention, query_BLNd: Tensor, contexts: Contexts) -> Tensor:
        """Attention to the audio, [B, L, D]. Silence is a context of zeros, all of the same value."""
        nothing_BLD = query_BLNd.new_zeros(1, 1, attn.v_vocal.in_features)
        silence_BLD = attn.v_vocal(nothing_BLD).expand(*query_BLNd.shape[:2], -1)
        hearing = [row for row, group in enumerate(contexts.audio_index) if group is not None]
        if contexts.audio_GFnD is None or not hearing:
            return silence_BLD
        groups = [group for group in contexts.audio_index if group is not None]
        key = _take(attn.k_vocal(contexts.audio_GFnD), groups)
        value = _take(attn.v_vocal(contexts.audio_GFnD), groups)
        query = _take(query_BLNd, hearing)
        if contexts.clip_level:
            heard = self._attend(query, key.flatten(1, 2), value.flatten(1, 2))
        else:
            num_latents = key.shape[1]
            query = rearrange(query, "r (f p) n d -> (r f) p n d", f=num_latents)
            heard = self._attend(query, key.flatten(0, 1), value.flatten(0, 1))
            heard = rearrange(heard, "(r f) p d -> r (f p) d", f=num_latents)
        if len(hearing) == len(contexts.audio_index):
            return heard
        heard_of = dict(zip(hearing, heard, strict=True))
        return torch.stack([heard_of.get(row, silence_LD) for row, silence_LD in enumerate(silence_BLD)])


class FloatTimesteps(nn.Module):
    """Sinusoidal embedding of t in [0, 1000], cosines first, computed in float64: [B] -> [B, num_channels]."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.num_channels = num_channels

    def forward(self, timestep_B: Tensor) -> Tensor:
        """Embed the time steps."""
        half = self.num_channels // 2
        exponent = torch.arange(half, dtype=torch.float64, device=timestep_B.device) / half
        angle = timestep_B.double()[:, None] * torch.exp(-math.log(10_000) * exponent)
        return torch.cat([angle.cos(), angle.sin()], dim=1).float()


class StableAvatarTransformer(WanTransformer3DModel):
    """Velocity of noisy latents, given portrait, text and speech.

    `audio_dims` are the widths from audio encoder to transformer; `text_len` is the number of text tokens that every
    prompt is padded to.
    """

    @register_to_config
    def __init__(
        self,
        *,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        text_len: int = 512,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        image_dim: int = 1280,
        audio_dims: tuple[int, ...] = (768, 1536),
        vocal_num_heads: int = 8,
        vocal_num_layers: int = 2,
        vocal_ffn_dim: int | None = None,
    ):
        dim = num_attention_heads * attention_head_dim
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            image_dim=image_dim,
            added_kv_proj_dim=dim,
        )
        self.condition_embedder.timesteps_proj = FloatTimesteps(freq_dim)
        self.vocal_projector = VocalProjector(audio_dims, vocal_num_heads, vocal_num_layers, vocal_ffn_dim)
        for block in self.blocks:
            block.attn2.k_vocal = nn.Linear(dim, dim)
            block.attn2.v_vocal = nn.Linear(dim, dim)
            block.attn2.set_processor(ContextAttnProcessor())

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text_BTE: Tensor,
        image_BIE: Tensor,
        audio_GAE: Tensor | None,
        audio_index: Sequence[int | None],
        *,
        pairing_G: Tensor | None = None,
        hearing_G: Tensor | None = None,
        num_latents: int | None = None,
        clip_level: bool = False,
    ) -> Tensor:
        """Predict the velocity, [B, out_channels, F, H, W].

        Args:
            hidden_states: noisy latents, then the mask and the portrait's latents, [B, in_channels, F, H, W].
            timestep: [B], in [0, 1000].
            text_BTE: text embeddings, zero behind each prompt's own tokens; T at most `text_len`.
            image_BIE: CLIP tokens of the portrait.
            audio_GAE: audio encoder's hidden states of each distinct window of sound.
            audio_index: for each row of the batch its row in `audio_GAE`, or None for silence. Rows that share
                a window of sound share latents and time step too.
            pairing_G: for each row in `audio_GAE`, 1 where the adapter sees the latents and 0 where it sees zeros in
                their place. None: it sees all of them, as the model was trained.
            hearing_G: for each row in `audio_GAE`, 1 where it is heard and 0 for silence. The same as leaving the row
                out of `audio_index`, but every part of the network is used, as training on several devices needs.
            num_latents: pad with zero tokens to this many latent frames, as the published code does with a short
                last window; the padding is attended to.
            clip_level: let every latent frame hear the whole window.
        """
        num_real, height, width = (
            size // patch for size, patch in zip(hidden_states.shape[2:], self.config.patch_size, strict=True)
        )
        num_latents = num_latents or num_real
        patches = height * width
        padding = (num_latents - num_real) * patches

        rotary = _pad_rotary(self.rope(hidden_states), padding)
        tokens_BLD = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
        tokens_BLD = F.pad(tokens_BLD, (0, 0, 0, padding)).contiguous()  # else every layer would read it across
        text_BTE = F.pad(text_BTE, (0, 0, 0, self.config.text_len - text_BTE.shape[1]))
        time_BD, modulation, text_BTD, image_BID = self.condition_embedder(timestep, text_BTE, image_BIE)
        modulation_B6D = modulation.unflatten(1, (6, -1))

        audio_GFnD = None
        if audio_GAE is not None:
            rows = [
                max(row for row, heard in enumerate(audio_index) if heard == group) for group in range(len(audio_GAE))
            ]
            latents_GFPD = _take(tokens_BLD, rows).unflatten(1, (num_latents, patches))
            if pairing_G is not None:
                latents_GFPD = latents_GFPD * pairing_G.view(-1, 1, 1, 1).to(latents_GFPD.dtype)
            audio_GFnD = self.vocal_projector(
                audio_GAE, latents_GFPD, _take(time_BD, rows), _take(modulation_B6D, rows), frames_of(num_latents)
            )
            if hearing_G is not None:
                audio_GFnD = audio_GFnD * hearing_G.view(-1, 1, 1, 1).to(audio_GFnD.dtype)
        contexts = Contexts(text_BTD, image_BID, audio_GFnD, tuple(audio_index), clip_level)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens_BLD = self._gradient_checkpointing_func(block, tokens_BLD, contexts, modulation_B6D, rotary)
            else:
                tokens_BLD = block(tokens_BLD, contexts, modulation_B6D, rotary)
        return self._to_latents(tokens_BLD[:, : num_real * patches], time_BD, (num_real, height, width))

    def _to_latents(self, tokens_BLD: Tensor, time_BD: Tensor, grid: tuple[int, int, int]) -> Tensor:
        shift, scale = (self.scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        hidden = (self.norm_out(tokens_BLD.float()) * (1 + scale) + shift).type_as(tokens_BLD)
        f, h, w = grid
        pf, ph, pw = self.config.patch_size
        pattern = "b (f h w) (pf ph pw c) -> b c (f pf) (h ph) (w pw)"
        return rearrange(self.proj_out(hidden), pattern, f=f, h=h, w=w, pf=pf, ph=ph, pw=pw)


def _take(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """The named rows. An index of Python numbers would be copied to the device, and everything would wait for it."""
    return torch.stack([tensor[row] for row in rows])


def _pad_rotary(rotary: tuple[Tensor, Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """Rotate the padding by nothing: cosine 1, sine 0."""
    cos, sin = rotary
    return F.pad(cos, (0, 0, 0, 0, 0, padding), value=1.0), F.pad(sin, (0, 0, 0, 0, 0, padding))
