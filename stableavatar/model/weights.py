"""Weights: from a preset's files, or from its seed, to networks on a device.

Loading is strict: every tensor of a file is used and none is missing. A file is memory-mapped and its tensors go one
by one to their device and number type, so the host never holds a second copy. Where both are right already (the CPU,
in the file's own type) the network uses the mapped file itself, which all processes of a machine share.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from stableavatar.checkpoints.hashes import HashBook, hash_encoders, hash_files, published_hash
from stableavatar.checkpoints.tensorfile import Pages, open_tensors
from stableavatar.errors import WeightsError
from stableavatar.model.names import Tensors
from stableavatar.presets import Preset, PublishedWeights, RandomWeights, SavedWeights

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Component(Generic[Network]):
    """One network of the model."""

    part: str  # its name in `Layout.tensors`
    build: Callable[[Preset], Network]
    rename: Callable[[Tensors], dict[str, Tensor]]  # from the file's names to the network's
    unused: str = "(?!)"  # pattern of the file's tensors that the network has no use for; none by default


def load_network(component: Component[Network], preset: Preset, device: str, dtype: torch.dtype | None) -> Network:
    """Make one network of a preset on a device.

    Args:
        component: which network.
        preset: its sizes, and where its weights come from.
        device: where it shall live.
        dtype: its number type; None leaves each tensor as it is in its file. Parts that need float32 keep it.

    Raises:
        WeightsError: the file is missing or damaged, or its tensors are not exactly the network's.
    """
    weights = preset.weights_of(component.part)
    if isinstance(weights, RandomWeights):
        network = random_network(lambda: component.build(preset), weights.seed)
        return _fill(network, network.state_dict(), device, dtype)
    path = tensor_path(component, preset)
    if isinstance(weights, Path):
        component = replace(component, rename=dict)
    network = empty_network(component, preset)
    tensors = matched(component, network, open_tensors(path), path)
    return _fill(network, tensors, device, dtype, Pages(path))


def tensor_path(component: Component, preset: Preset) -> Path:
    """The file that holds the weights of one network."""
    weights = preset.weights_of(component.part)
    assert not isinstance(weights, RandomWeights)
    if isinstance(weights, Path):
        return weights
    return weights.layout.folder / weights.layout.tensors(component.part, weights.transformer)


def random_network(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose random weights depend on `seed` alone; the caller's random state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval().requires_grad_(False)


def empty_network(component: Component[Network], preset: Preset) -> Network:
    """One network of a preset without weights. Its tables (which no file holds) are real."""
    with init_empty_weights(include_buffers=False):
        return component.build(preset).eval().requires_grad_(False)


def matched(component: Component, network: nn.Module, published: Tensors, path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the network's names.

    Raises:
        WeightsError: tensors are missing, unknown, or of another shape than the network's.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in published.items():
        renamed = component.rename({name: tensor})
        if wanted.keys() >= renamed.keys() and not found.keys() & renamed.keys() and renamed:
            found |= renamed
        elif not re.match(component.unused, name):
            unknown.append(name)
    misshapen = [
        f"{name} {list(tensor.shape)} instead of {list(wanted[name])}"
        for name, tensor in found.items()
        if tensor.shape != wanted[name]
    ]
    problems = {"missing": sorted(wanted.keys() - found.keys()), "unknown": unknown, "of another shape": misshapen}
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names)
        raise WeightsError(
            f"{path} does not hold the {component.part} of this model. Of {len(wanted)} tensors: {listed}. "
            f"Check that this is the published file for this size of the model, or fetch it again."
        )
    return found


def _some(names: list[str], most: int = 50) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _fill(
    network: Network,
    tensors: Mapping[str, Tensor],
    device: str,
    dtype: torch.dtype | None,
    pages: Pages | None = None,
) -> Network:
    """Give a network its tensors, one by one moved and converted. A tensor known by two names stays one.

    `pages` of the file that the tensors are views of.
    """
    placed: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if id(tensor) in placed:
            continue
        if pages:
            pages.fetch(tensor)
        moved = placed[id(tensor)] = tensor.to(device=device, dtype=dtype_of(network, name, tensor, dtype))
        if pages and moved.data_ptr() != tensor.data_ptr():
            pages.release(tensor)
    network.load_state_dict({name: placed[id(tensor)] for name, tensor in tensors.items()}, assign=True)
    return network.to(device)  # the tables


def dtype_of(network: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The number type of one tensor. Norms, modulation and time embedding of diffusers' networks stay float32."""
    if dtype is None or not tensor.is_floating_point():
        return tensor.dtype
    precise = getattr(network, "_keep_in_fp32_modules", None) or ()
    return torch.float32 if set(precise) & set(name.split(".")) else dtype


def weights_hash(preset: Preset) -> str:
    """Hash of everything the weights depend on, 32 hex digits.

    For random weights the networks' sizes and the seed; for published ones the content of every file that has a say
    in the pictures. Converting a folder to safetensors does not change it. For saved ones the content of their files,
    the sizes, and the weights that they are based on.

    Raises:
        WeightsError: a file is missing.
    """
    weights = preset.weights
    sizes = [dict(part) for part in (preset.transformer, preset.vae, preset.text, preset.image, preset.audio)]
    if isinstance(weights, RandomWeights):
        return _hash(["random-1", weights.seed, *sizes])
    if isinstance(weights, PublishedWeights):
        return _hash(["published-1", hash_files(weights.layout, weights.transformer)])
    base = weights.base  # of which only the parts without a file of their own have a say
    if isinstance(base, PublishedWeights):
        source = _hash(["published-1", hash_files(base.layout, base.transformer, without=weights.files)])
    else:
        source = weights_hash(replace(preset, weights=base))
    return _hash(["saved-1", source, _contents(weights.files), *sizes])


def encoders_hash(preset: Preset) -> str:
    """Hash of everything that encoded windows depend on, 32 hex digits: `weights_hash` without the transformer.

    Raises:
        WeightsError: a file is missing.
    """
    weights = preset.weights
    base, files = (weights.base, weights.files) if isinstance(weights, SavedWeights) else (weights, {})
    source = base.seed if isinstance(base, RandomWeights) else hash_encoders(base.layout)
    contents = _contents({part: path for part, path in files.items() if part != "transformer"})
    sizes = [dict(part) for part in (preset.vae, preset.text, preset.image, preset.audio)]
    # The number goes up where windows are encoded otherwise by the same networks.
    return _hash(["encoders-2", source, contents, preset.max_text_tokens, *sizes])


def part_content(component: Component, preset: Preset) -> str:
    """What the weights of one network are: their seed, or the hash of their file, which converting does not change.

    Raises:
        WeightsError: the file is missing.
    """
    weights = preset.weights_of(component.part)
    if isinstance(weights, RandomWeights):
        return f"seed {weights.seed}"
    if isinstance(weights, Path):
        return _content(weights)
    layout = weights.layout
    return published_hash(HashBook(layout.folder), layout.tensors(component.part, weights.transformer))


def _contents(files: Mapping[str, str]) -> dict[str, str]:
    return {part: _content(Path(path)) for part, path in files.items()}


def _content(path: Path) -> str:
    return HashBook(path.parent).sha256(Path(path.name))


def _hash(words: Iterable) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:32]
