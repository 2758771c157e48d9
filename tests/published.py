"""Writes folders of random weights laid out as the authors publish theirs: small ones of golden size, or full-size."""

import json
import math
import mmap
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from stableavatar.checkpoints import layout
from stableavatar.presets import Preset, PublishedWeights

HERE = Path(__file__).parent
GOLDEN, LISTS = HERE / "golden", HERE / "checkpoints"

Shapes = Mapping[str, tuple[int, ...]]


def listed_shapes(name: str) -> Shapes:
    """Published names and shapes of a list in tests/checkpoints."""
    tensors = json.loads((LISTS / f"{name}.json").read_text())["tensors"]
    return {name: tuple(shape) for name, shape in tensors.items()}


def golden_shapes(name: str) -> Shapes:
    """Published names, with the small shapes of the golden networks."""
    with safe_open(GOLDEN / f"{name}_upstream.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What to write: the shapes of each part, and the audio encoder's configuration."""

    size: str
    transformer: Shapes
    vae: Shapes
    text: Shapes | None  # None: no text encoder
    image: Shapes
    audio: Mapping[str, Any]
    variants: tuple[str, ...] = layout.VARIANTS
    transformer_dtype: torch.dtype = torch.float32


def small(size: str = "1.3B") -> Contents:
    """A few megabytes: the networks of tests/golden under the published names."""
    return Contents(
        size=size,
        transformer=golden_shapes("transformer"),
        vae=golden_shapes("vae"),
        text=golden_shapes("t5"),
        image=golden_shapes("clip"),
        audio=json.loads((GOLDEN / "wav2vec2" / "config.json").read_text()),
    )


def full(*, with_text: bool) -> Contents:
    """The 1.3B model: 10 GB, and 11 GB more with the text encoder."""
    return Contents(
        size="1.3B",
        transformer=listed_shapes("dit_1.3b"),
        vae=listed_shapes("vae"),
        text=listed_shapes("t5") if with_text else None,
        image=listed_shapes("clip_visual"),
        audio=Wav2Vec2Config().to_dict(),
        variants=("square",),
    )


def small_preset(folder: Path, variant: str = "square", size: str = "1.3B") -> Preset:
    """The preset of a folder that was written from `small`."""
    width, text_width, image_width = 64, 32, 40
    return Preset(
        name="small",
        sizes=((96, 96),),
        transformer=dict(
            num_attention_heads=4,
            attention_head_dim=width // 4,
            num_layers=2,
            ffn_dim=96,
            freq_dim=32,
            text_dim=text_width,
            text_len=16,
            image_dim=image_width,
            audio_dims=(24, width),
        ),
        vae=dict(base_dim=8),
        text=dict(
            vocab_size=120,
            d_model=text_width,
            d_kv=8,
            d_ff=48,
            num_heads=4,
            num_layers=2,
            feed_forward_proj="gated-gelu",
        ),
        image=dict(
            hidden_size=image_width,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
            hidden_act="gelu",
        ),
        audio=json.loads((GOLDEN / "wav2vec2" / "config.json").read_text()),
        max_text_tokens=16,
        weights=PublishedWeights(folder=str(folder), size=size, transformer=variant),
        window_latents=5,
        overlap=2,
        num_steps=2,
    )


def write_folder(folder: Path, contents: Contents) -> None:
    """Write the folder."""
    base = folder / layout.base_folder(contents.size)
    for seed, variant in enumerate(contents.variants):
        path = folder / layout.avatar_folder(contents.size) / layout.transformer_file(variant)
        # The authors have published both ways.
        write_tensors(path, contents.transformer, contents.transformer_dtype, seed, under="" if seed else "state_dict")
    write_tensors(base / layout.VAE, contents.vae, torch.float32, 10)
    write_tensors(base / layout.IMAGE, {**contents.image, **TEXT_HALF_OF_CLIP}, torch.float32, 11)
    if contents.text:
        write_tensors(base / layout.TEXT, contents.text, torch.bfloat16, 12)
    vocabulary_size = contents.text["token_embedding.weight"][0] if contents.text else 120
    write_tokenizer(base / layout.TOKENIZER, vocabulary_size)
    (base / "config.json").write_text("{}")
    write_audio(folder / layout.AUDIO, contents.audio)


TEXT_HALF_OF_CLIP = {"textual.model.embeddings.weight": (7, 5), "textual.head.0.weight": (3, 3), "log_scale": ()}


def write_tensors(path: Path, shapes: Shapes, dtype: torch.dtype, seed: int, under: str = "") -> None:
    """Write random tensors as torch does, a few megabytes at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}  # memory that nobody touches
    with torch.serialization.skip_data():
        torch.save({under: tensors} if under else tensors, path)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        saved = torch.load(path, mmap=True, weights_only=True)
    noise = torch.randn(1 << 21, generator=torch.Generator().manual_seed(seed))
    for place, (name, tensor) in enumerate((saved[under] if under else saved).items()):
        fill(name, tensor, noise[1009 * place % (1 << 20) :])


def fill(name: str, tensor: Tensor, noise: Tensor) -> None:
    """Fill a tensor with numbers of the size that a network of this kind has."""
    is_norm = tensor.ndim <= 1 or "gamma" in name or ".norm" in name
    scale = 0.05 if is_norm else 0.5 / math.sqrt(max(1, tensor[0].numel()))
    offset = 1.0 if is_norm and name.endswith(("weight", "gamma")) else 0.0
    flat = tensor.view(-1)
    for part in flat.split(len(noise)):
        part.copy_(noise[: len(part)] * scale + offset)


def write_audio(folder: Path, config: Mapping[str, Any]) -> None:
    """Write an audio encoder in Hugging Face's layout."""
    torch.manual_seed(7)
    Wav2Vec2Model(Wav2Vec2Config(**config)).save_pretrained(folder)
    shutil.copy(GOLDEN / "wav2vec2" / "preprocessor_config.json", folder)


def write_tokenizer(folder: Path, vocabulary_size: int) -> None:
    """Write a small Unigram tokenizer of umT5's kind: pieces with a mark for the space, `</s>` at the end."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["▁", ".", ","]
    words = ["▁a", "▁person", "▁is", "▁talking", "▁to", "▁the", "▁camera", "er", "in", "th"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -8.0) for letter in letters] + [(word, -3.0) for word in words]
    assert len(pieces) <= vocabulary_size
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}  # as published, though umT5's is another
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
