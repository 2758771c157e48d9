"""The networks of the model whose weights lie in files of the original Wan code's layout: what each is made of."""

from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.names import image_tensors, text_tensors, transformer_tensors, vae_tensors
from stableavatar.model.weights import Component

TRANSFORMER = Component(
    part="transformer",
    build=lambda preset: StableAvatarTransformer(**preset.transformer),
    rename=transformer_tensors,
)
VAE = Component(part="vae", build=lambda preset: AutoencoderKLWan(**preset.vae), rename=vae_tensors)
TEXT = Component(part="text", build=lambda preset: UMT5EncoderModel(UMT5Config(**preset.text)), rename=text_tensors)
IMAGE = Component(
    part="image",
    build=lambda preset: CLIPVisionModel(CLIPVisionConfig(**preset.image)),
    rename=image_tensors,
    unused=r"textual\.|visual\.head$|log_scale$|logit_scale$",  # the file holds the text half of CLIP too
)
COMPONENTS: tuple[Component, ...] = (TRANSFORMER, VAE, TEXT, IMAGE)
