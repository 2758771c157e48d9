"""The networks of the model: what each is made of. `COMPONENTS` lie in files of the original Wan code's layout."""

from diffusers import AutoencoderKLWan
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.names import image_tensors, text_tensors, transformer_tensors, vae_tensors
from stableavatar.model.quick import quick_convolutions
from stableavatar.model.weights import Component

TRANSFORMER = Component(
    part="transformer",
    build=lambda preset: StableAvatarTransformer(**preset.transformer),
    rename=transformer_tensors,
)
VAE = Component(
    part="vae",
    build=lambda preset: quick_convolutions(AutoencoderKLWan(**preset.vae)),
    rename=vae_tensors,
)
TEXT = Component(part="text", build=lambda preset: UMT5EncoderModel(UMT5Config(**preset.text)), rename=text_tensors)
IMAGE = Component(
    part="image",
    build=lambda preset: CLIPVisionModel(CLIPVisionConfig(**preset.image)),
    rename=image_tensors,
    unused=r"textual\.|visual\.head$|log_scale$|logit_scale$",  # the file holds the text half of CLIP too
)
AUDIO = Component(
    part="audio",
    build=lambda preset: Wav2Vec2Model(Wav2Vec2Config(**preset.audio)),
    rename=dict,  # published in its own library's layout, which `conditions.audio_network` reads
)
COMPONENTS: tuple[Component, ...] = (TRANSFORMER, VAE, TEXT, IMAGE)
