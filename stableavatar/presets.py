"""Presets: everything that is the same for all videos of a run. A preset is a function that returns a complete one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and the values its rows fall back on.

    `transformer`, `vae`, `text`, `image` and `audio` are the keyword arguments of the networks' own configurations.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]  # (width, height) in pixels the model was made for

    transformer: Mapping[str, Any] = field(repr=False)
    vae: Mapping[str, Any] = field(repr=False)
    text: Mapping[str, Any] = field(repr=False)
    image: Mapping[str, Any] = field(repr=False)
    audio: Mapping[str, Any] = field(repr=False)
    max_text_tokens: int = 512
    weights_seed: int  # random weights are drawn from this seed

    window_latents: int = 21  # 81 video frames
    overlap: int = 5  # latent frames that neighbouring windows share
    num_steps: int = 50
    shift: float = 5.0  # of the flow-matching schedule
    text_scale: float = 3.0
    audio_scale: float = 5.0
    seed: int = 42
    prompt: str = "A person is talking to the camera."
    negative_prompt: str = "blurry, distorted, static, worst quality"


def tiny() -> Preset:
    """The true architecture with small sizes and seeded random weights: every part of the path, in seconds, on a CPU.

    Its pictures are noise.
    """
    width, text_width, image_width, audio_width = 48, 32, 40, 24
    return Preset(
        name="tiny",
        sizes=((128, 128), (96, 160), (160, 96)),
        transformer=dict(
            num_attention_heads=4,
            attention_head_dim=width // 4,
            num_layers=2,
            ffn_dim=96,
            freq_dim=32,
            text_dim=text_width,
            image_dim=image_width,
            audio_dims=(audio_width, width),
        ),
        vae=dict(base_dim=4, num_res_blocks=1),
        text=dict(
            vocab_size=384,
            d_model=text_width,
            d_kv=8,
            d_ff=48,
            num_heads=4,
            num_layers=2,
            feed_forward_proj="gated-gelu",
        ),
        image=dict(
            hidden_size=image_width,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            hidden_act="gelu",
        ),
        audio=dict(
            hidden_size=audio_width,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        ),
        max_text_tokens=64,
        weights_seed=0,
        num_steps=2,
    )


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny}
