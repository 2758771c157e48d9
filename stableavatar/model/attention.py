"""Which kernel computes attention: diffusers' dispatcher by short names, and `auto` for the fastest that works here."""

import logging
from typing import Any

import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _check_attention_backend_requirements,
    dispatch_attention_fn,
)

from stableavatar.choices import BACKENDS
from stableavatar.model.dit import StableAvatarTransformer

FASTEST_FIRST = ("flash3", "flash", "cudnn", "native")  # on Hopper; sage only when asked for

logger = logging.getLogger(__name__)


def set_attention(transformer: StableAvatarTransformer, name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Choose the attention kernel of a transformer that computes on `device` in `dtype`; returns its short name.

    Raises:
        ValueError: there is no such kernel, or it does not work here. The message says why. Never for `auto`.
    """
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"there is no attention backend {name!r}; there is: auto, {', '.join(BACKENDS)}")
    for candidate in FASTEST_FIRST if name == "auto" else (name,):
        obstacle = why_not(transformer, candidate, device, dtype)
        if obstacle is None:
            transformer.set_attention_backend(BACKENDS[candidate])
            # The adapter's heads are wider than most kernels take, and it has little to do.
            blocks: Any = transformer.vocal_projector.blocks
            for block in blocks:
                block.attn2.processor._attention_backend = BACKENDS["native"]
            return candidate
        logger.debug("attention backend %s does not work here: %s", candidate, obstacle)
    raise ValueError(f"the attention backend {name!r} does not work here: {obstacle} Use another one, or auto.")


def why_not(transformer: StableAvatarTransformer, name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps a kernel from working with this transformer; None if nothing does. It is tried on a small input."""
    num_heads, head_dim = transformer.config.num_attention_heads, transformer.config.attention_head_dim
    query = torch.zeros(1, 64, num_heads, head_dim, device=device, dtype=dtype)
    context = query[:, :17]  # few and odd, as an audio slice is
    try:
        _check_attention_backend_requirements(AttentionBackendName(BACKENDS[name]))  # its package is there
        # By name, not by set_attention_backend: that would leave a broken kernel behind for all networks.
        dispatch_attention_fn(query, query, query, backend=BACKENDS[name])
        dispatch_attention_fn(query, context, context, backend=BACKENDS[name])
    except Exception as error:  # whatever the kernel's package raises, or the absence of it
        return (str(error) or type(error).__name__).splitlines()[0]
    return None
