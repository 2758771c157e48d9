"""The transformer under guidance: what the sampler is given as its velocity.

Shapes: B guidance rows, C channels, F latent frames, H W latent height and width, T text tokens, I image tokens,
A audio tokens, E encoder width, G distinct audio rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.sampling.guidance import Weights
from stableavatar.sampling.sampler import Velocity


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What steers the windows of one video, on the device."""

    portrait_BCFHW: Tensor  # mask and latents, the same for every window
    image_BIE: Tensor
    text_BTE: Tensor  # prompt, negative prompt
    audio: Sequence[Tensor]  # of each window, [1, A, E]


class _Rows(NamedTuple):
    """The guidance batch of some steps, ready on the device."""

    text_BTE: Tensor
    image_BIE: Tensor
    audio_index: list[int | None]  # of each row, as the transformer takes it
    pairing_G: Tensor | None
    num_audio: int  # distinct audio rows
    weight_B: Tensor


def guided_velocity(
    transformer: StableAvatarTransformer, conditions: Conditions, weights: Sequence[Weights], window_latents: int
) -> Velocity:
    """The velocity of a window in a step.

    Args:
        transformer: predicts one velocity per guidance row.
        conditions: of the video.
        weights: of each step; only the conditions named there are computed.
        window_latents: shorter windows are padded to this many latent frames inside the transformer.
    """
    dtype = transformer.dtype
    # Made before the loop, so that nothing in it waits for the device; steps with the same weights share their rows.
    distinct = {tuple(step.items()): _rows(conditions, step, dtype) for step in weights}
    rows_of = [distinct[tuple(step.items())] for step in weights]

    def velocity(latents_BCFHW: Tensor, timestep: Tensor, step: int, index: int) -> Tensor:
        rows = rows_of[step]
        num_rows = len(rows.audio_index)
        portrait_BCFHW = conditions.portrait_BCFHW[:, :, : latents_BCFHW.shape[2]]
        predicted = transformer(
            torch.cat([latents_BCFHW, portrait_BCFHW], dim=1).to(dtype).expand(num_rows, -1, -1, -1, -1),
            timestep.expand(num_rows),
            rows.text_BTE,
            rows.image_BIE,
            conditions.audio[index].to(dtype).expand(rows.num_audio, -1, -1) if rows.num_audio else None,
            rows.audio_index,
            pairing_G=rows.pairing_G,
            num_latents=window_latents,
        )
        return (predicted.float() * rows.weight_B).sum(dim=0, keepdim=True)

    return velocity


def _rows(conditions: Conditions, weights: Weights, dtype: torch.dtype) -> _Rows:
    device = conditions.text_BTE.device
    # Rows that hear share one row of audio, unless the adapter is to see the latents in some of them only.
    pairings = sorted({row.paired for row in weights if row.hears}, reverse=True)
    paired = torch.tensor(pairings, device=device) if False in pairings else None
    return _Rows(
        text_BTE=conditions.text_BTE[[0 if row.prompted else 1 for row in weights]].to(dtype),
        image_BIE=conditions.image_BIE.to(dtype).expand(len(weights), -1, -1),
        audio_index=[pairings.index(row.paired) if row.hears else None for row in weights],
        pairing_G=paired,
        num_audio=len(pairings),
        weight_B=torch.tensor(list(weights.values()), device=device).view(-1, 1, 1, 1, 1),
    )
