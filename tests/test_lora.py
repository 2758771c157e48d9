import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stableavatar.errors import BadInput
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.lora import Lora, lora_applied, original_name, parse_loras, read_lora
from stableavatar.model.names import transformer_tensors
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny

RANK, ALPHA = 3, 6.0
Tensors = dict[str, Tensor]


def build() -> StableAvatarTransformer:
    return random_network(lambda: StableAvatarTransformer(**tiny().transformer), 0)


@pytest.fixture(scope="module")
def transformer() -> StableAvatarTransformer:
    return build()


def trunk_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    """What the published training gives a LoRA."""
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    return {name: layer for name, layer in layers.items() if "vocal" not in name}


def matrices(transformer: nn.Module, seed: int = 1) -> dict[str, tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(RANK, layer.in_features, generator=random) * 0.1,
            torch.randn(layer.out_features, RANK, generator=random) * 0.1,
        )
        for name, layer in trunk_layers(transformer).items()
    }


def underscored(name: str) -> str:
    return original_name(name).replace(".", "_")


def tensors(pairs: dict[str, tuple[Tensor, Tensor]], spell: Callable[[str], str], parts: tuple[str, str]) -> Tensors:
    result = {f"{spell(name)}.alpha": torch.tensor(ALPHA) for name in pairs}
    for name, pair in pairs.items():
        result |= {f"{spell(name)}.{part}.weight": matrix for part, matrix in zip(parts, pair, strict=True)}
    return result


LAYOUTS: dict[str, Callable[[str], str]] = {
    "diffusers": lambda name: f"transformer.{name}",
    "wan": lambda name: f"diffusion_model.{original_name(name)}",
    "kohya": lambda name: f"lora_unet_{underscored(name)}",
    "published": lambda name: f"lora_transformer__{underscored(name)}",
    "bare": lambda name: name,
}


def inputs() -> dict:
    torch.manual_seed(1)
    return dict(
        hidden_states=torch.randn(1, 36, 5, 4, 6),
        timestep=torch.full((1,), 500.0),
        text_BTE=torch.randn(1, 7, 32),
        image_BIE=torch.randn(1, 17, 40),
        audio_GAE=torch.randn(1, 33, 24),
        audio_index=[0],
    )


def predict(transformer: nn.Module, *loras: tuple[Lora, float]) -> Tensor:
    with torch.inference_mode(), lora_applied(transformer, loras):
        return transformer(**inputs())


def merged(*changes: tuple[dict[str, tuple[Tensor, Tensor]], float]) -> StableAvatarTransformer:
    network = build()
    for pairs, weight in changes:
        for name, layer in trunk_layers(network).items():
            down, up = pairs[name]
            layer.weight += weight * ALPHA / RANK * (up @ down)
    return network


def write(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> str:
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("parts", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_every_layout_is_the_same_change(
    transformer: StableAvatarTransformer, tmp_path: Path, layout: str, parts: tuple[str, str]
) -> None:
    pairs = matrices(transformer)
    suffix = ".pt" if layout == "published" else ".safetensors"
    lora = read_lora(write(tensors(pairs, LAYOUTS[layout], parts), tmp_path / f"lora{suffix}"), transformer)
    assert lora.layers.keys() == pairs.keys()
    for name, (down, up) in pairs.items():
        assert torch.equal(lora.layers[name].down_RI, down) and torch.equal(lora.layers[name].up_OR, up)
        assert lora.layers[name].scale == ALPHA / RANK


def test_original_names_are_those_of_the_published_files() -> None:
    published = load_file(Path(__file__).parent / "golden" / "transformer_upstream.safetensors")
    checked = 0
    for name in published:
        (ours,) = transformer_tensors({name: published[name]})
        if name.endswith(".weight") and published[name].ndim == 2 and "vocal_projector" not in name:
            assert original_name(ours.removesuffix(".weight")) == name.removesuffix(".weight")
            checked += 1
    assert checked > 30


def test_it_works_like_merged_weights_and_leaves_no_trace(transformer: StableAvatarTransformer, tmp_path: Path) -> None:
    first, second = matrices(transformer, 1), matrices(transformer, 2)
    one = read_lora(
        write(tensors(first, LAYOUTS["wan"], ("lora_A", "lora_B")), tmp_path / "a.safetensors"), transformer
    )
    two = read_lora(write(tensors(second, LAYOUTS["kohya"], ("lora_A", "lora_B")), tmp_path / "b.pt"), transformer)
    before = predict(transformer)
    alone = predict(transformer, (one, 1.0))
    both = predict(transformer, (one, 0.8), (two, -0.5))
    torch.testing.assert_close(alone, predict(merged((first, 1.0))), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(both, predict(merged((first, 0.8), (second, -0.5))), atol=2e-5, rtol=1e-4)
    assert (alone - before).abs().max() > 0.01 and (both - alone).abs().max() > 0.01
    # From row to row, with and without an error in between, nothing drifts.
    with pytest.raises(KeyboardInterrupt), lora_applied(transformer, [(two, 1.0)]):
        raise KeyboardInterrupt
    assert torch.equal(predict(transformer), before)
    assert torch.equal(predict(transformer, (one, 1.0)), alone)
    fresh = build().state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in transformer.state_dict().items())


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float8_e4m3fn])
def test_it_works_on_narrow_weights(transformer: StableAvatarTransformer, tmp_path: Path, storage: torch.dtype) -> None:
    network = build().to(torch.bfloat16)
    if storage != torch.bfloat16:
        network.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.bfloat16)
    stored = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pairs = matrices(network)
    lora = read_lora(write(tensors(pairs, LAYOUTS["bare"], ("lora_A", "lora_B")), tmp_path / "a.pt"), network)

    def run(*loras: tuple[Lora, float]) -> Tensor:
        narrow = {name: value.bfloat16() if isinstance(value, Tensor) else value for name, value in inputs().items()}
        with torch.inference_mode(), lora_applied(network, loras):
            return network(**narrow).float()

    before, changed = run(), run((lora, 1.0))
    wide_change = predict(transformer, (lora, 1.0)) - predict(transformer)
    similarity = torch.cosine_similarity((changed - before).flatten(), wide_change.flatten(), dim=0)
    assert similarity > 0.95
    assert torch.equal(run(), before)
    after = network.state_dict()
    assert all(torch.equal(after[name].view(torch.uint8), stored[name].view(torch.uint8)) for name in stored)


def test_files_of_peft_carry_their_alpha_apart(transformer: StableAvatarTransformer, tmp_path: Path) -> None:
    config = LoraConfig(r=RANK, lora_alpha=12, target_modules=["attn1.to_q"], alpha_pattern={"blocks.1.attn1.to_q": 24})
    wrapped = get_peft_model(build(), config)
    wrapped.save_pretrained(str(tmp_path))
    lora = read_lora(str(tmp_path / "adapter_model.safetensors"), transformer)
    assert {name: layer.scale for name, layer in lora.layers.items()} == {
        "blocks.0.attn1.to_q": 12 / RANK,
        "blocks.1.attn1.to_q": 24 / RANK,
    }
    # diffusers writes one file, with the same configuration in its header.
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 12, "transformer.r": RANK})}
    state = {f"transformer.{key.split('model.', 2)[-1]}": t for key, t in get_peft_model_state_dict(wrapped).items()}
    other = read_lora(write(state, tmp_path / "diffusers.safetensors", metadata), transformer)
    assert {layer.scale for layer in other.layers.values()} == {12 / RANK}


def change(tensors: Tensors, key: str, tensor: Tensor | None = None, as_key: str = "") -> Tensors:
    changed = {name: value for name, value in tensors.items() if name != key}
    return changed if tensor is None else {**changed, as_key or key: tensor}


Q = "lora_unet_blocks_0_self_attn_q"


@pytest.mark.parametrize(
    ("key", "tensor", "as_key", "message"),
    [
        (f"{Q}.lora_up.weight", None, "", r"blocks\.0\.attn1\.to_q has no up matrix"),
        (f"{Q}.lora_down.weight", None, "", r"blocks\.0\.attn1\.to_q has no down matrix"),
        (f"{Q}.lora_up.weight", torch.zeros(48, 4), "", "rank 3 in its down matrix, but 4"),
        (f"{Q}.lora_up.weight", torch.zeros(47, 3), "", r"do not fit the layer's \(48, 48\)"),
        (f"{Q}.lora_down.weight", torch.zeros(3, 5120), "", r"down matrix of \(3, 5120\)"),
        (f"{Q}.lora_down.weight", torch.zeros(3), "", r"down matrix of \(3,\)"),
        (f"{Q}.lora_up.weight", torch.zeros(()), "", r"up matrix of \(\)"),
        (f"{Q}.alpha", torch.zeros(2), "", r"alpha of blocks\.0\.attn1\.to_q is not one number"),
        (f"{Q}.alpha", torch.zeros(48), f"{Q}.diff_b", r"self_attn_q\.diff_b is no tensor of a LoRA"),
        (
            f"{Q}.alpha",
            torch.zeros(()),
            "lora_unet_blocks_9_self_attn_q.alpha",
            r"blocks_9_self_attn_q\.alpha is for a layer",
        ),
        (f"{Q}.alpha", torch.zeros(48, 3), "diffusion_model.blocks.0.self_attn.q.lora_up.weight", "is there twice"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_of_file_and_key(
    transformer: StableAvatarTransformer, tmp_path: Path, key: str, tensor: Tensor | None, as_key: str, message: str
) -> None:
    good = tensors(matrices(transformer), LAYOUTS["kohya"], ("lora_down", "lora_up"))
    path = write(change(good, key, tensor, as_key), tmp_path / "wrong.safetensors")
    with pytest.raises(BadInput, match=message) as error:
        read_lora(path, transformer)
    assert path in str(error.value)


@pytest.mark.parametrize("name", ["lora.safetensors", "lora.pt"])
@pytest.mark.parametrize("content", [None, b"", b"no tensors at all, but a text that goes on for a while"])
def test_a_file_that_is_none(
    transformer: StableAvatarTransformer, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=name):
        read_lora(str(path), transformer)


def test_only_names_and_shapes_of_the_transformer_matter(transformer: StableAvatarTransformer, tmp_path: Path) -> None:
    path = write(tensors(matrices(transformer), LAYOUTS["bare"], ("lora_A", "lora_B")), tmp_path / "a.safetensors")
    with torch.device("meta"):
        empty = StableAvatarTransformer(**tiny().transformer)
    assert read_lora(path, empty).layers.keys() == read_lora(path, transformer).layers.keys()


def test_loras_as_text() -> None:
    assert parse_loras("a.safetensors:0.8, b/c.pt,s3://bucket/d.safetensors,s3://bucket/e.safetensors:-1") == [
        ("a.safetensors", 0.8),
        ("b/c.pt", 1.0),
        ("s3://bucket/d.safetensors", 1.0),
        ("s3://bucket/e.safetensors", -1.0),
    ]
    assert parse_loras(" ") == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("a.pt,", "''"), (":0.5", "':0.5'"), ("a.pt:strong", "'strong'"), ("a.pt:11", "'11'"), ("a:nan", "'nan'")],
)
def test_errors_of_the_text_name_what_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="LoRAs") as error:
        parse_loras(text)
    assert wrong in str(error.value)
