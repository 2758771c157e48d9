import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stableavatar.checkpoints.layout import AUDIO_WEIGHTS
from stableavatar.checkpoints.tensorfile import open_tensors
from stableavatar.errors import WeightsError
from stableavatar.model.conditions import TextEncoder, audio_network, text_tokenizer
from stableavatar.model.networks import COMPONENTS, IMAGE, TEXT, TRANSFORMER, VAE
from stableavatar.model.weights import (
    Component,
    empty_network,
    encoders_hash,
    load_network,
    matched,
    random_network,
    tensor_path,
    weights_hash,
)
from stableavatar.presets import PublishedWeights, RandomWeights, published_sizes, tiny
from tests.published import listed_shapes, small, small_preset, write_folder, write_tensors

LISTS = [
    (TRANSFORMER, "1.3B", "dit_1.3b"),
    (TRANSFORMER, "14B", "dit_14b"),
    (VAE, "1.3B", "vae"),
    (TEXT, "1.3B", "t5"),
    (IMAGE, "1.3B", "clip_visual"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_folder(folder, small())
    return folder


def test_random_weights_depend_on_their_seed_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = random_network(lambda: nn.Linear(3, 3), 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(first.weight, random_network(lambda: nn.Linear(3, 3), 1).weight)
    assert not torch.equal(first.weight, random_network(lambda: nn.Linear(3, 3), 2).weight)
    assert not first.weight.requires_grad and not first.training


def test_hash_changes_with_anything_random_weights_depend_on() -> None:
    preset = tiny()
    assert weights_hash(preset) == weights_hash(tiny())
    assert len(weights_hash(preset)) == 32
    assert weights_hash(replace(preset, weights=RandomWeights(seed=1))) != weights_hash(preset)
    assert weights_hash(replace(preset, vae={"base_dim": 16})) != weights_hash(preset)
    assert weights_hash(replace(preset, num_steps=9)) == weights_hash(preset)


@pytest.mark.parametrize(("component", "size", "name"), LISTS, ids=[name for *_, name in LISTS])
def test_networks_need_exactly_the_published_tensors(component: Component, size: str, name: str) -> None:
    preset = published_sizes(PublishedWeights(folder="/nowhere", size=size), audio={})
    network = empty_network(component, preset)
    published = {name: torch.empty(shape, device="meta") for name, shape in listed_shapes(name).items()}
    found = matched(component, network, published, Path(name))
    assert found.keys() == network.state_dict().keys()
    for left_out in list(published)[:: len(published) // 7]:
        if left_out == "visual.head":
            continue
        rest = {name: tensor for name, tensor in published.items() if name != left_out}
        with pytest.raises(WeightsError, match="missing"):
            matched(component, network, rest, Path(name))


@pytest.mark.parametrize("component", COMPONENTS, ids=[component.part for component in COMPONENTS])
def test_a_loaded_network_is_the_one_that_was_written(folder: Path, component: Component) -> None:
    preset = small_preset(folder)
    path = tensor_path(component, preset)
    content = torch.load(path, weights_only=True)
    expected = component.build(preset)
    tensors = component.rename(content.get("state_dict", content))
    expected.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=True)
    loaded = load_network(component, preset, "cpu", torch.float32)
    assert not loaded.training
    ours, theirs = everything_in(loaded), everything_in(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def everything_in(network: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers())}


def test_the_two_weights_of_the_transformer_are_chosen_by_name(folder: Path) -> None:
    square, wide = (
        load_network(TRANSFORMER, small_preset(folder, variant), "cpu", torch.float32)
        for variant in ("square", "rec-vec")
    )
    assert not torch.equal(square.proj_out.weight, wide.proj_out.weight)


def test_norms_modulation_and_time_keep_their_precision(folder: Path) -> None:
    network = load_network(TRANSFORMER, small_preset(folder), "cpu", torch.bfloat16)
    assert network.dtype == torch.bfloat16
    precise = {name for name, tensor in network.named_parameters() if tensor.dtype == torch.float32}
    assert {name for name, _ in network.named_parameters() if "scale_shift_table" in name} <= precise
    assert {"blocks.0.norm2.weight", "condition_embedder.time_embedder.linear_1.weight"} <= precise
    assert not any("attn" in name or "ffn" in name for name in precise)
    assert network.rope.freqs_cos.dtype == torch.float32


def test_text_encoder_keeps_its_files_type_and_tokenizer(folder: Path) -> None:
    encoder = TextEncoder.load(small_preset(folder), "cpu")
    assert encoder.network.dtype == torch.bfloat16
    assert encoder.network.shared.weight.data_ptr() == encoder.network.encoder.embed_tokens.weight.data_ptr()
    embeds = encoder.encode("A person is talking to the camera.")
    assert embeds.shape == (9, 32) and embeds.dtype == "float32"  # seven words, the full stop, the end
    assert encoder.encode("x" * 99).shape == (16, 32)


def test_the_tokenizer_is_the_one_in_its_file(folder: Path) -> None:
    tokenizer = text_tokenizer(small_preset(folder))
    assert tokenizer("A PERSON is ß").input_ids == [33, 34, 35, 30, 3, 1]  # small letters; 3 is unknown, 1 the end
    assert tokenizer("").input_ids == [1]


Change = Callable[[dict[str, Any]], Any]
K_VOCAL = "blocks.1.cross_attn.k_vocal.bias"
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda tensors: tensors.pop(K_VOCAL), r"1 missing \(blocks.1.attn2.k_vocal.bias\)"),
    "unknown": (lambda tensors: tensors.update(extra=torch.zeros(1)), r"1 unknown \(extra\)"),
    "shape": (
        lambda tensors: tensors.update({"head.head.bias": torch.zeros(63)}),
        r"proj_out.bias \[63\] instead of \[64\]",
    ),
    "base model": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if "vocal" in name],
        r"48 missing .*proj_out",
    ),
    "no tensors": (lambda tensors: tensors.update(epoch=3), "something else"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_this_model_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    preset = small_preset(tmp_path)
    tensors = dict(open_tensors(tensor_path(TRANSFORMER, small_preset(folder))))
    change, message = WRONG[name]
    change(tensors)
    path = tensor_path(TRANSFORMER, preset)
    path.parent.mkdir()
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_network(TRANSFORMER, preset, "cpu", torch.float32)
    assert str(path) in str(caught.value)


def test_audio_encoder_is_checked_too(tmp_path: Path) -> None:
    preset = small_preset(tmp_path)
    write_folder(tmp_path, small())
    assert torch.equal(
        audio_network(preset).feature_projection.projection.weight,
        open_tensors(tmp_path / "wav2vec2-base-960h" / AUDIO_WEIGHTS[0])["feature_projection.projection.weight"],
    )
    path = tmp_path / "wav2vec2-base-960h" / AUDIO_WEIGHTS[0]
    tensors = {name: tensor.clone() for name, tensor in open_tensors(path).items()}
    path.unlink()
    del tensors["encoder.layers.0.attention.k_proj.weight"]
    torch.save(tensors, path.with_name(AUDIO_WEIGHTS[1]))
    with pytest.raises(WeightsError, match=r"missing \['encoder.layers.0.attention.k_proj.weight'\]"):
        audio_network(preset)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Wan2.1_VAE.pth cannot be read.*download"):
        load_network(VAE, small_preset(tmp_path), "cpu", None)


MEASURE = """
import re, sys, torch
from pathlib import Path
from stableavatar.checkpoints.tensorfile import Pages, open_tensors

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

path = Path(sys.argv[1])
before = peak()
tensors = open_tensors(path)
pages = Pages(path)
for name, tensor in tensors.items():
    tensors[name] = tensor.to(torch.bfloat16)
    pages.release(tensor)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
def test_converting_holds_one_tensor_of_the_file_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write_tensors(path, {f"tensor{i}": (5_000_000,) for i in range(20)}, torch.float32, 0)
    peak = int(subprocess.check_output([sys.executable, "-c", MEASURE, str(path)], text=True))
    assert 200e6 < peak < 260e6  # the 200 MB result, and one tensor of the 400 MB file


def test_hash_of_published_weights_is_that_of_their_files(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path, small())
    preset, other = small_preset(folder), small_preset(tmp_path)
    first = weights_hash(preset)
    assert first == weights_hash(replace(preset, num_steps=3))
    assert first != weights_hash(small_preset(folder, "rec-vec"))
    assert encoders_hash(preset) == encoders_hash(small_preset(folder, "rec-vec"))
    path = tensor_path(VAE, other)
    before = weights_hash(other), encoders_hash(other)
    write_tensors(path, {"conv1.bias": (3,)}, torch.float32, 3)
    after = weights_hash(other), encoders_hash(other)
    assert after[0] != before[0] and after[1] != before[1]
    tensor_path(TRANSFORMER, other).unlink()  # as for a run that starts from the base model
    assert encoders_hash(other) == after[1]
    write_folder(tmp_path, small())
    path.unlink()
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE"):
        weights_hash(other)
