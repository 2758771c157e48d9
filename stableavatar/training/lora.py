"""LoRA by PEFT: low-rank adapters on every linear layer of the trunk, and their file."""

import json
import re
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from stableavatar.model.names import is_vocal
from stableavatar.training.config import LoraSettings

FILE = "lora.safetensors"


def add_lora(network: nn.Module, settings: LoraSettings) -> None:
    """Put adapters that change nothing yet beside the linear layers outside the audio path, in place."""
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear) and not is_vocal(name)]
    # A pattern fits whole names. PEFT would compare those of a list with the ends of names, and find the adapter's too.
    exactly = "|".join(map(re.escape, layers))
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number does
        target_modules=exactly,
        init_lora_weights=True,
    )
    inject_adapter_in_model(config, network)


def split_lora(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a network with adapters as (those of the network, those of the adapters by their usual names)."""
    plain = {name.replace(".base_layer.", "."): value for name, value in tensors.items() if ".lora_" not in name}
    low_rank = {
        "transformer." + name.replace(".default.", "."): value for name, value in tensors.items() if ".lora_" in name
    }
    return plain, low_rank


def save_lora(tensors: dict[str, Tensor], settings: LoraSettings, folder: Path) -> None:
    """Write the adapters as diffusers and PEFT do: `lora.safetensors`, rank and alpha in its metadata."""
    described = {"transformer.r": settings.rank, "transformer.lora_alpha": settings.alpha}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(described)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / FILE, metadata)
