"""Networks to train, and the weights that they start from."""

import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from stableavatar.checkpoints.hashes import HashBook
from stableavatar.checkpoints.layout import TRUNK
from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.errors import WeightsError
from stableavatar.model.names import is_vocal
from stableavatar.model.networks import AUDIO, TRANSFORMER, VAE
from stableavatar.model.weights import Component, empty_network, load_network, matched, part_content, random_network
from stableavatar.presets import Preset, PublishedWeights, find_preset
from stableavatar.training.config import TrainingConfig

_COMPONENTS: dict[str, Component] = {"avatar": TRANSFORMER, "vae": VAE, "audio": AUDIO}
_FIRST_LOGVAR, _LOGVAR_GAIN = -6.0, 0.01


def preset_of(config: TrainingConfig) -> Preset:
    """The model of a run: its sizes, its frozen networks, and the weights that it may start from.

    Raises:
        WeightsError: it is not there, or cannot be used.
    """
    return find_preset(config.model, config.weights, base_only=config.start == "base")


def starting_network(config: TrainingConfig, preset: Preset) -> nn.Module:
    """The network that a run trains, in float32 on the CPU, with the weights that it starts from.

    Raises:
        WeightsError: the files of these weights are missing or damaged.
    """
    component = _COMPONENTS[config.task]
    _require_start(config, preset)
    if config.start == "nothing":
        network = random_network(lambda: component.build(preset), config.seed)
        if config.task == "vae":
            _prepare_vae(network, config.seed)
    elif config.start == "base":
        network = plain_wan(preset, config.seed)
    else:
        network = load_network(component, preset, "cpu", torch.float32)
    return network.train().requires_grad_(True)


def hollow_network(config: TrainingConfig, preset: Preset) -> nn.Module:
    """The same without weights, which takes no memory: for workers that get them from another."""
    return empty_network(_COMPONENTS[config.task], preset).train().requires_grad_(True)


def start_hash(config: TrainingConfig, preset: Preset) -> str:
    """Hash of what a run begins with: the sizes of its network, and the weights that its seed does not draw.

    Raises:
        WeightsError: the files of these weights are missing, or no run can begin with them.
    """
    component = _COMPONENTS[config.task]
    _require_start(config, preset)
    if config.start == "base":
        folder, path = _base_transformer(preset)
        content = HashBook(folder).sha256(path)
    else:
        content = part_content(component, preset) if config.start == "weights" else ""
    words = [config.start, dict(getattr(preset, component.part)), content]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:32]


def _require_start(config: TrainingConfig, preset: Preset) -> None:
    """Raises WeightsError if no run begins with such weights."""
    if config.start != "weights":
        return
    part = _COMPONENTS[config.task].part
    if preset.lora:
        raise WeightsError(
            f"{config.model} is a model with a LoRA: no training begins with it. Give the model that it was made for."
        )
    if config.task != "avatar" and isinstance(preset.weights_of(part), PublishedWeights):
        raise WeightsError(
            f"the {part} network of {preset.name} is published as it is: only drawn or saved "
            "ones are trained. Give `start: nothing`, or a saved model."
        )


def _prepare_vae(vae: nn.Module, seed: int) -> None:
    """New weights of a VAE that is to learn quickly.

    Every convolution keeps the variance of what passes through it (He et al., 2015, without the rectifier) and begins
    by looking at the present frame alone; where frames are left out or doubled, it is by taking or repeating one. So
    what is learned from pictures holds for videos, the past is learned, and long videos are no surprise. The latents
    start with little noise: at a variance of 1 they would drown in it.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.zeros_(layer.weight)
            present = layer.weight if isinstance(layer, nn.Conv2d) else layer.weight[:, :, -1]
            nn.init.kaiming_normal_(present, nonlinearity="linear", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    for name, layer in vae.named_modules():
        if name.endswith(".time_conv"):
            same = torch.eye(layer.in_channels)
            nn.init.zeros_(layer.weight)
            layer.weight[:, :, -1, 0, 0] = same.repeat(layer.out_channels // layer.in_channels, 1)
    moments: nn.Conv3d = vae.quant_conv  # type: ignore[assignment]
    logvar = slice(moments.out_channels // 2, None)
    moments.weight[logvar] *= _LOGVAR_GAIN
    moments.bias[logvar] = _FIRST_LOGVAR  # type: ignore[index]


def plain_wan(preset: Preset, seed: int) -> nn.Module:
    """The base Wan transformer with a new audio path that changes nothing yet.

    The vocal keys and values start at zero, so the model starts as plain Wan; the adapter starts as new layers do.
    Source: StableAvatar (arXiv 2508.08248) and its training code.

    Raises:
        WeightsError: the preset has no folder of published weights, or its base model is missing or another one.
    """
    folder, path = _base_transformer(preset)
    network = random_network(lambda: TRANSFORMER.build(preset), seed)
    fill_trunk(network, folder / path)
    return network


def _base_transformer(preset: Preset) -> tuple[Path, Path]:
    """The preset's folder, and the base model's transformer in it. Raises WeightsError: there is none."""
    weights = preset.weights
    if not isinstance(weights, PublishedWeights):
        raise WeightsError(f"`start: base` needs a folder of published weights, {preset.name} has none.")
    folder, path = weights.layout.folder, weights.layout.base / TRUNK
    if not (folder / path).exists():
        fetch = f"stableavatar download {weights.size.lower()} {weights.folder} --base"
        raise WeightsError(
            f"{folder / path} is missing: `start: base` begins with the base model. `{fetch}` fetches it."
        )
    return folder, path


def fill_trunk(network: nn.Module, path: Path) -> None:
    """Fill all but the audio path from a file of the base model, whose names are the original Wan code's.

    Raises:
        WeightsError: its tensors are not exactly those of the trunk.
    """
    own = network.state_dict()
    for name, tensor in own.items():
        if "_vocal." in name:  # not the adapter, which is new
            tensor.zero_()
    for name, tensor in matched(TRANSFORMER, _Trunk(own), open_tensors(path), path).items():
        own[name].copy_(tensor)  # one by one: all of them would be the trunk a second time


class _Trunk(nn.Module):
    """A transformer of which only the tensors without the audio path are asked for."""

    def __init__(self, tensors: dict):
        super().__init__()
        self._wanted = {name: tensor for name, tensor in tensors.items() if not is_vocal(name)}

    def state_dict(self, *args: object, **kwargs: object) -> dict:  # type: ignore[override]
        return self._wanted
