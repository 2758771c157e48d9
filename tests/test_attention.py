from typing import Any

import pytest
import torch

from stableavatar.model.attention import BACKENDS, set_attention, why_not
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny

CPU = torch.device("cpu")


@pytest.fixture
def transformer() -> StableAvatarTransformer:
    return random_network(lambda: StableAvatarTransformer(**tiny().transformer), 0)


def backends(transformer: StableAvatarTransformer) -> set:
    layers = [layer for block in transformer.blocks for layer in (block.attn1, block.attn2)]
    return {layer.processor._attention_backend for layer in layers}


def test_auto_falls_back_to_what_works(transformer: StableAvatarTransformer) -> None:
    chosen = set_attention(transformer, "auto", CPU, torch.float32)
    assert why_not(transformer, chosen, CPU, torch.float32) is None
    assert backends(transformer) == {BACKENDS[chosen]}
    blocks: Any = transformer.vocal_projector.blocks
    adapter = {block.attn2.processor._attention_backend for block in blocks}
    assert adapter == {"native"}  # its heads are wider than most kernels take


@pytest.mark.parametrize("name", ["flash3", "flash", "sage", "cudnn"])
def test_a_kernel_that_needs_a_gpu_is_a_clear_error(transformer: StableAvatarTransformer, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' does not work here: .+ Use another one, or auto"):
        set_attention(transformer, name, CPU, torch.float32)
    assert backends(transformer) == {None}


def test_unknown_kernels_name_what_there_is(transformer: StableAvatarTransformer) -> None:
    with pytest.raises(ValueError, match="no attention backend 'fast'; there is: auto, flash3"):
        set_attention(transformer, "fast", CPU, torch.float32)
