"""How the tensor names of the published files map to the networks here.

The published files keep the names of the original Wan code. diffusers knows those of the transformer's trunk and of
the VAE; the audio path, the text encoder and the image encoder are mapped here. Each map takes any part of a file.

diffusers loads for seconds, so it does where it is used: who only wants to know whose weights these are does without.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]

_VOCAL = re.compile(r"(^|\.)(vocal_projector|[kv]_vocal)(\.|$)")

_VOCAL_NAMES = (
    (r"^(vocal_projector\.)final_scale_shift_table", r"\1scale_shift_table"),
    (r"^(vocal_projector\.)final_head\.final_proj", r"\1proj_out"),
    (r"^(vocal_projector\.proj_model\.)proj\.", r"\1stages.0.0."),
    (r"^(vocal_projector\.proj_model\.)norm\.", r"\1stages.0.1."),
    (r"^(vocal_projector\.proj_model\.)proj_1\.", r"\1stages.0.0."),
    (r"^(vocal_projector\.proj_model\.)norm_1\.", r"\1stages.0.1."),
    (r"^(vocal_projector\.proj_model\.)proj_2\.", r"\1stages.1.0."),
    (r"^(vocal_projector\.proj_model\.)norm_2\.", r"\1stages.1.1."),
)
_TEXT_NAMES = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.([qkvo])\.", r"encoder.block.\1.layer.0.SelfAttention.\2."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding\.",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.",
    ),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
_IMAGE_NAMES = (
    (r"^visual\.patch_embedding\.", "embeddings.patch_embedding."),
    (r"^visual\.pre_norm\.", "pre_layrnorm."),
    (r"^visual\.post_norm\.", "post_layernorm."),
    (r"^visual\.transformer\.(\d+)\.norm1\.", r"encoder.layers.\1.layer_norm1."),
    (r"^visual\.transformer\.(\d+)\.norm2\.", r"encoder.layers.\1.layer_norm2."),
    (r"^visual\.transformer\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^visual\.transformer\.(\d+)\.mlp\.0\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^visual\.transformer\.(\d+)\.mlp\.2\.", r"encoder.layers.\1.mlp.fc2."),
)


def _rename(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def is_vocal(name: str) -> bool:
    """Whether a layer or tensor of `StableAvatarTransformer` belongs to the audio path, and is none of plain Wan's."""
    return bool(_VOCAL.search(name))


def transformer_tensors(published: Tensors) -> dict[str, Tensor]:
    """Published StableAvatar transformer -> `StableAvatarTransformer`."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    converted = convert_wan_transformer_to_diffusers(dict(published))
    return {_rename(name, _VOCAL_NAMES): tensor for name, tensor in converted.items()}


def vae_tensors(published: Tensors) -> dict[str, Tensor]:
    """Published Wan 2.1 VAE -> `AutoencoderKLWan`."""
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    return convert_wan_vae_to_diffusers(dict(published))


def text_tensors(published: Tensors) -> dict[str, Tensor]:
    """Published umT5 encoder -> `UMT5EncoderModel`, which knows its one token embedding by two names."""
    tensors = {_rename(name, _TEXT_NAMES): tensor for name, tensor in published.items()}
    if "shared.weight" in tensors:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    return tensors


def image_tensors(published: Tensors) -> dict[str, Tensor]:
    """The `visual.*` part of the published CLIP -> `CLIPVisionModel`, but for its projection to text."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in published.items():
        if not name.startswith("visual.") or name == "visual.head":
            continue
        if fused := re.match(r"^visual\.transformer\.(\d+)\.attn\.to_qkv\.(weight|bias)$", name):
            layer, part = fused.groups()
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                tensors[f"encoder.layers.{layer}.self_attn.{letter}_proj.{part}"] = third
        elif name == "visual.cls_embedding":
            tensors["embeddings.class_embedding"] = tensor.flatten()
        elif name == "visual.pos_embedding":
            tensors["embeddings.position_embedding.weight"] = tensor.squeeze(0)
        else:
            tensors[_rename(name, _IMAGE_NAMES)] = tensor
    return tensors
