import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from stableavatar.avatar import Avatar
from stableavatar.checkpoints import layout
from stableavatar.checkpoints.inspect import verify_folder
from stableavatar.errors import WeightsError
from stableavatar.model.weights import weights_hash
from stableavatar.presets import Preset, RandomWeights, saved, tiny
from stableavatar.training.start import plain_wan, start_hash
from stableavatar.training.trainer import Trainer
from tests.published import golden_shapes, small, small_preset, write_folder
from tests.training import small_batch, small_config

BASE = "Wan2.1-Fun-V1.1-1.3B-InP/diffusion_pytorch_model.safetensors"


def write_base(folder: Path) -> None:
    """The base model's transformer."""
    draw = torch.Generator().manual_seed(0)
    shapes = {name: shape for name, shape in golden_shapes("transformer").items() if "vocal" not in name}
    (folder / BASE).parent.mkdir(exist_ok=True)
    save_file({name: torch.randn(shape, generator=draw) * 0.1 for name, shape in shapes.items()}, folder / BASE)


@pytest.fixture
def preset(tmp_path: Path) -> Preset:
    """A folder with nothing but the base transformer, at golden size."""
    preset = small_preset(tmp_path)
    write_base(tmp_path)
    return replace(preset, transformer={**preset.transformer, "text_len": 512})


def test_the_start_is_plain_wan_whatever_is_heard(preset: Preset) -> None:
    network = plain_wan(preset, seed=3).eval()
    sizes = {name: value for name, value in preset.transformer.items() if name not in ("text_len", "audio_dims")}
    wan = WanTransformer3DModel(in_channels=36, out_channels=16, added_kv_proj_dim=64, **sizes).eval()
    trunk = network.state_dict()
    wan.load_state_dict({name: trunk[name] for name in wan.state_dict()})

    draw = torch.Generator().manual_seed(1)
    latents, text = torch.randn((1, 36, 3, 4, 4), generator=draw), torch.randn((1, 512, 32), generator=draw)
    image, audio = torch.randn((1, 17, 40), generator=draw), torch.randn((1, 17, 24), generator=draw)
    time = torch.tensor([321.0])
    with torch.no_grad():
        heard = network(latents, time, text, image, audio, [0])
        silent = network(latents, time, text, image, None, [None])
        expected = wan(latents, time, text, encoder_hidden_states_image=image).sample
    torch.testing.assert_close(heard, silent)
    torch.testing.assert_close(heard, expected, rtol=1e-3, atol=1e-4)
    assert expected.std() > 0.01


def test_the_audio_path_is_new_and_the_seeds(preset: Preset) -> None:
    first, second, other = (plain_wan(preset, seed=seed).state_dict() for seed in (3, 3, 4))
    zero = {name for name, tensor in first.items() if not tensor.any()}
    assert zero >= {
        f"blocks.{n}.attn2.{kind}_vocal.{part}" for n in (0, 1) for kind in "kv" for part in ("weight", "bias")
    }
    adapter = "vocal_projector.blocks.0.ffn.net.2.weight"
    assert torch.equal(first[adapter], second[adapter]) and not torch.equal(first[adapter], other[adapter])
    assert torch.equal(first["blocks.0.attn1.to_q.weight"], other["blocks.0.attn1.to_q.weight"])


def test_what_a_run_begins_with_has_a_hash(preset: Preset, tmp_path: Path) -> None:
    base = small_config(start="base")
    before = start_hash(base, preset)
    tensors = load_file(tmp_path / BASE)
    save_file({**tensors, "head.head.bias": tensors["head.head.bias"] + 1}, tmp_path / BASE)
    assert start_hash(base, preset) != before
    nothing, weights = small_config(start="nothing"), small_config(start="weights")
    drawn = replace(tiny(), weights=RandomWeights(seed=1))
    assert start_hash(nothing, tiny()) == start_hash(nothing, drawn)  # the run's own seed draws them
    assert start_hash(weights, tiny()) != start_hash(weights, drawn)
    larger = replace(tiny(), transformer={**tiny().transformer, "num_layers": 3})
    assert start_hash(nothing, tiny()) != start_hash(nothing, larger)


def test_a_model_that_was_trained_from_the_base_is_used_without_stableavatars_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, replace(small(), variants=()))
    write_base(tmp_path)
    preset = small_preset(tmp_path)
    monkeypatch.setattr("stableavatar.training.trainer.preset_of", lambda _: preset)
    trainer = Trainer(small_config(start="base", train="published"))
    heard = "network.blocks.0.attn2.v_vocal.weight"
    assert not trainer.parameters[heard].any()
    losses = [trainer.train_step([small_batch([step])])["loss"] for step in range(3)]
    assert all(map(math.isfinite, losses)) and trainer.parameters[heard].any()

    trainer.export(tmp_path / "model", None)
    model = saved(tmp_path / "model")
    verify_folder(model)
    assert weights_hash(model) == weights_hash(replace(model, num_steps=9))
    tensors = Avatar.load(model, "cpu", dtype=torch.float32).transformer.state_dict()
    assert torch.equal(tensors[heard.removeprefix("network.")], trainer.parameters[heard])

    shutil.rmtree(tmp_path / layout.AUDIO)
    with pytest.raises(WeightsError, match=r"audio network[^!]*comes from the `base` that its model.json names"):
        verify_folder(model)


def test_without_the_base_model_there_is_no_such_start(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="needs a folder of published weights"):
        plain_wan(tiny(), 0)
    with pytest.raises(
        WeightsError, match=r"diffusion_pytorch_model.safetensors is missing.*`stableavatar download 1.3b /.* --base`"
    ):
        plain_wan(small_preset(tmp_path), 0)
