"""LoRA: low-rank changes to the transformer's linear layers, read from any of the usual files and put on for one video.

A file names each layer in one of three ways, with one of several prefixes:

| made by | layer | tensors |
|---|---|---|
| diffusers, PEFT | `transformer.blocks.0.attn1.to_q` | `lora_A`, `lora_B`; alpha in the file's metadata |
| Wan tools | `diffusion_model.blocks.0.self_attn.q` | `lora_A`, `lora_B` or `lora_down`, `lora_up`; `alpha` |
| kohya, musubi-tuner | `lora_unet_blocks_0_self_attn_q` | `lora_down`, `lora_up`, `alpha` |
| StableAvatar's training | `lora_transformer__blocks_0_self_attn_q` | the same |

Since every spelling of a layer's name is listed, a name is either known or an error. The vocal tensors that
StableAvatar trains beside its LoRA are not in its LoRA file; they are only in the full checkpoint.

A LoRA is not merged into the weights: they stay as they are, to the last bit, in whatever number type they are stored
(a merged one would be lost in fp8's rounding), and taking it off is exact and free. It is a forward hook on each layer.
PEFT does the same by replacing the layers; it gives equal numbers, but takes a second instead of milliseconds to put
on, and matches layers by the ends of their names, so that it also changes the adapter's layers of the same names.

Shapes: R rank, I inputs, O outputs of a layer.
"""

import json
import math
import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stableavatar.errors import BadInput
from stableavatar.text import one_line

MAX_WEIGHT = 10.0

_PREFIXES = (
    r"(base_model\.model\.|transformer\.|model\.diffusion_model\.|diffusion_model\.|lora_unet_|lora_transformer__)"
)
_KEY = re.compile(
    rf"{_PREFIXES}?(?P<layer>.+)\.((?P<part>lora_A|lora_B|lora_down|lora_up)(\.default)?\.weight|(?P<alpha>alpha))"
)
_PARTS = {"lora_A": "down", "lora_down": "down", "lora_B": "up", "lora_up": "up"}
_ORIGINAL_NAMES = (
    (r"\battn1\.to_([qkv])$", r"self_attn.\1"),
    (r"\battn1\.to_out\.0$", "self_attn.o"),
    (r"\battn2\.to_([qkv])$", r"cross_attn.\1"),
    (r"\battn2\.to_out\.0$", "cross_attn.o"),
    (r"\battn2\.add_([kv])_proj$", r"cross_attn.\1_img"),
    (r"\battn2\.([kv])_vocal$", r"cross_attn.\1_vocal"),
    (r"\bffn\.net\.0\.proj$", "ffn.0"),
    (r"\bffn\.net\.2$", "ffn.2"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_1$", r"\1_embedding.0"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_2$", r"\1_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj$", "img_emb.proj.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2$", "img_emb.proj.3"),
    (r"^proj_out$", "head.head"),
)


class LowRank(NamedTuple):
    """The change to one layer: `scale * up @ down` is added to its weight."""

    down_RI: Tensor
    up_OR: Tensor
    scale: float  # alpha / rank


@dataclass(frozen=True, kw_only=True)
class Lora:
    """One file, by the names of the transformer's layers."""

    path: str
    layers: Mapping[str, LowRank]


def parse_loras(text: str) -> list[tuple[str, float]]:
    """Read `first.safetensors:0.8,second.safetensors` as paths with weights; without one the weight is 1.

    Raises:
        ValueError: it is not written like that; the message names the part that is wrong.
    """
    return [_parse_part(part.strip(), text) for part in text.split(",")] if text.strip() else []


def read_lora(path: str, transformer: nn.Module) -> Lora:
    """Read one LoRA file for a transformer, which may live on the meta device: only names and shapes matter.

    Raises:
        BadInput: the file cannot be read, or does not fit the transformer. The message names the file and the key.
    """
    tensors, config = _load(path)
    shapes = {name: tuple(layer.weight.shape) for name, layer in _linear_layers(transformer).items()}
    spellings = _spellings(shapes)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise BadInput(f"{path}: {key} is no tensor of a LoRA (down, up or alpha of a linear layer)")
        if match["layer"] not in spellings:
            raise BadInput(
                f"{path}: {key} is for a layer that this model does not have. Was it made for another model?"
            )
        part = _PARTS[match["part"]] if match["part"] else "alpha"
        layer = parts.setdefault(spellings[match["layer"]], {})
        if part in layer:
            raise BadInput(f"{path}: {key} is there twice, under two names of one layer")
        layer[part] = tensor
    if not parts:
        raise BadInput(f"{path} holds no tensors")
    return Lora(
        path=path, layers={name: _low_rank(path, name, layer, shapes[name], config) for name, layer in parts.items()}
    )


@contextmanager
def lora_applied(transformer: nn.Module, loras: Sequence[tuple[Lora, float]]) -> Generator[None]:
    """Inside the block the transformer works as if `weight * LoRA` were added to its weights, for each of `loras`.

    A compiled transformer does not see hooks that come later: reset torch.compile before.
    """
    layers = _linear_layers(transformer)
    with ExitStack() as stack:
        for name in sorted({name for lora, _ in loras for name in lora.layers}):
            changes = [(lora.layers[name], weight) for lora, weight in loras if name in lora.layers]
            stack.callback(layers[name].register_forward_hook(_Change(changes)).remove)
        yield


class _Change:
    """A forward hook that adds several low-rank changes, as one of their ranks together."""

    def __init__(self, changes: Iterable[tuple[LowRank, float]]):
        changes = [(change, weight) for change, weight in changes]
        self.down_IR = torch.cat([change.down_RI.float() for change, _ in changes]).T
        self.up_RO = torch.cat([change.up_OR.float() * (change.scale * weight) for change, weight in changes], dim=1).T

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        hidden = inputs[0]
        if (self.down_IR.device, self.down_IR.dtype) != (hidden.device, hidden.dtype):  # in the first call
            self.down_IR, self.up_RO = self.down_IR.to(hidden), self.up_RO.to(hidden)
        return output + (hidden @ self.down_IR @ self.up_RO).to(output.dtype)


def _linear_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}


def original_name(name: str) -> str:
    """What the original Wan code calls a layer of the transformer."""
    for pattern, replacement in _ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _spellings(names: Iterable[str]) -> dict[str, str]:
    """Everything that a file may call a layer -> its name."""
    dotted = {spelling: name for name in names for spelling in (name, original_name(name))}
    return {**{spelling.replace(".", "_"): name for spelling, name in dotted.items()}, **dotted}


def _low_rank(
    path: str, name: str, parts: Mapping[str, Tensor], shape: tuple[int, ...], config: Mapping[str, Any]
) -> LowRank:
    for part in ("down", "up"):
        if part not in parts:
            raise BadInput(f"{path}: the LoRA of {name} has no {part} matrix")
    down, up = parts["down"], parts["up"]
    found = f"{path}: the LoRA of {name} has a down matrix of {tuple(down.shape)}, an up matrix of {tuple(up.shape)}"
    if (down.ndim, up.ndim) != (2, 2) or (up.shape[0], down.shape[1]) != shape:
        raise BadInput(f"{found}, which do not fit the layer's {shape}. Was it made for another size of the model?")
    rank = len(down)
    if up.shape[1] != rank:
        raise BadInput(f"{found}: rank {rank} in its down matrix, but {up.shape[1]} in its up matrix")
    if rank > max(shape):  # a few bytes of a .pt file can stand for a matrix of any size
        raise BadInput(f"{found}: a rank of {rank}, more than the layer's {shape}")
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise BadInput(f"{path}: the alpha of {name} is not one number")
    alpha = parts["alpha"].item() if "alpha" in parts else _configured_alpha(name, rank, config)
    return LowRank(down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _configured_alpha(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """Alpha as PEFT configures it: one for all layers, with exceptions by patterns of their names."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return alpha
    return config.get("lora_alpha", rank)


def _load(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and PEFT's configuration, which is empty where there is none."""
    try:
        if not path.endswith(".safetensors"):
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            return _checked(path, tensors.get("state_dict", tensors) if isinstance(tensors, dict) else {}), {}
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            config = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        beside = os.path.join(os.path.dirname(path), "adapter_config.json")
        if os.path.basename(path) == "adapter_model.safetensors" and os.path.exists(beside):
            with open(beside) as file:
                config = json.load(file)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        reason = one_line((str(error) or type(error).__name__).splitlines()[0])
        if isinstance(error, UnpicklingError):  # torch's own words advise to run whatever the file says
            reason = "it holds more than tensors, or is something else. Give a .safetensors file"
        raise BadInput(f"{path} cannot be read as a LoRA: {reason}") from error
    return tensors, {key.removeprefix("transformer."): value for key, value in config.items()}


def _checked(path: str, values: Mapping[Any, Any]) -> dict[str, Tensor]:
    for key, value in values.items():
        if not isinstance(value, Tensor | float | int):
            raise BadInput(f"{path}: {key} is no tensor but a {type(value).__name__}")
    return {str(key): torch.as_tensor(value) for key, value in values.items()}


def _parse_part(part: str, text: str) -> tuple[str, float]:
    path, colon, word = part.rpartition(":")
    if not colon or "/" in word:  # the colon of a URI such as s3://bucket/file is no weight
        path, word = part, "1"
    if not path:
        raise ValueError(f"LoRAs {text!r}: {part!r} names no file; write FILE or FILE:WEIGHT, with commas between them")
    try:
        weight = float(word)
    except ValueError:
        weight = math.nan
    if not abs(weight) <= MAX_WEIGHT:
        raise ValueError(f"LoRAs {text!r}: {word!r} is no weight from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}")
    return path, weight
