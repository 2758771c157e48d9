"""Every network and whole sampler runs against values recorded from the reference network.

Reads any folder laid out like `tests/golden`: STABLEAVATAR_GOLDEN=<dir> pytest tests/test_golden.py
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel, Wav2Vec2Model

from stableavatar.model.adapter import slice_ranges
from stableavatar.model.conditions import embed_image, embed_speech, embed_text, resize_for_clip
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.names import image_tensors, text_tensors, transformer_tensors, vae_tensors
from stableavatar.model.vae import add_mask, decode_frames, encode_video
from stableavatar.sampling.denoiser import Conditions, guided_velocity
from stableavatar.sampling.guidance import guidance_weights, schedule_weights
from stableavatar.sampling.plan import PUBLISHED_SURPLUS, plan_published
from stableavatar.sampling.sampler import sample
from stableavatar.sampling.schedulers import euler_scheduler
from stableavatar.sampling.state import SamplerState
from stableavatar.sampling.windows import RAMPS
from stableavatar.units import frames_of, latents_for

GOLDEN = Path(os.environ.get("STABLEAVATAR_GOLDEN", Path(__file__).parent / "golden"))
TOLERANCE = 1e-4


def load_json(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text())


def load_case(file: str, case: str = "") -> dict[str, Tensor]:
    return {
        name.removeprefix(case): tensor for name, tensor in load_file(GOLDEN / file).items() if name.startswith(case)
    }


def fill(network: nn.Module, tensors: dict[str, Tensor]) -> Any:
    network.load_state_dict(tensors, strict=True)
    return network.eval().requires_grad_(False)


def assert_agrees(name: str, ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"{name}: largest relative difference {difference:.1e}")
    assert difference <= TOLERANCE


def audio_dims(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    """Widths from the audio encoder to the transformer: one stage in small models, two in large ones."""
    stages = sorted(
        name for name in tensors if re.fullmatch(r"vocal_projector\.proj_model\.stages\.\d\.0\.weight", name)
    )
    return (tensors[stages[0]].shape[1], *(tensors[name].shape[0] for name in stages))


@cache
def transformer() -> StableAvatarTransformer:
    config = load_json("transformer_config.json")
    tensors = transformer_tensors(load_file(GOLDEN / "transformer_upstream.safetensors"))
    network = StableAvatarTransformer(
        patch_size=tuple(config["patch_size"]),
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["dim"] // config["num_heads"],
        in_channels=config["in_dim"],
        out_channels=config["out_dim"],
        text_dim=config["text_dim"],
        text_len=config["text_len"],
        freq_dim=config["freq_dim"],
        ffn_dim=config["ffn_dim"],
        num_layers=config["num_layers"],
        image_dim=config["image_dim"],
        audio_dims=audio_dims(tensors),
        vocal_num_heads=config["vocal_num_heads"],
        vocal_num_layers=config["vocal_num_layers"],
        vocal_ffn_dim=config["vocal_ffn_dim"],
    )
    return fill(network, tensors)


@cache
def vae() -> AutoencoderKLWan:
    config = load_json("vae_config.json")
    network = AutoencoderKLWan(
        base_dim=config["base_dim"],
        z_dim=config["z_dim"],
        dim_mult=config["dim_mult"],
        num_res_blocks=config["num_res_blocks"],
        temperal_downsample=config["temporal_downsample"],
    )
    return fill(network, vae_tensors(load_file(GOLDEN / "vae_upstream.safetensors")))


@pytest.mark.parametrize("name", ["single", "cfg", "clip_level", "full81", "padded_tail"])
def test_transformer(name: str) -> None:
    case = load_case("transformer_cases.safetensors", f"{name}.")
    x_BCFHW = case["x"]
    batch = len(x_BCFHW)
    text_BTE = torch.nn.utils.rnn.pad_sequence([case[f"context.{row}"] for row in range(batch)], batch_first=True)
    out = transformer()(
        torch.cat([x_BCFHW, case["y"]], dim=1),
        case["t"],
        text_BTE,
        case["clip_fea"],
        case["audio"],
        [0] if batch == 1 else [None, 0, 0],
        num_latents=latents_for(int(case["num_frames"])),
        clip_level=bool(case["clip_level"]),
    )
    assert_agrees(name, out, case["out"])


RANGES = sorted(name for name in load_file(GOLDEN / "transformer_cases.safetensors") if name.startswith("ranges."))


@pytest.mark.parametrize("name", RANGES)
def test_slice_ranges(name: str) -> None:
    _, num_tokens, num_frames = name.split(".")
    expected = load_case("transformer_cases.safetensors")[name].tolist()
    assert [list(bounds) for bounds in slice_ranges(int(num_tokens), int(num_frames))] == expected


def test_vae_encode() -> None:
    case = load_case("vae_cases.safetensors")
    assert_agrees("vae encode", encode_video(vae(), case["video"]), case["latents"])


def test_vae_decode() -> None:
    case = load_case("vae_cases.safetensors")
    frames = torch.cat(list(decode_frames(vae(), case["latents"])), dim=2)
    assert_agrees("vae decode", frames, case["decoded"])


def test_text_encoder() -> None:
    config = load_json("t5_config.json")
    network = UMT5EncoderModel(
        UMT5Config(
            vocab_size=config["vocab"],
            d_model=config["dim"],
            d_kv=config["dim_attn"] // config["num_heads"],
            d_ff=config["dim_ffn"],
            num_heads=config["num_heads"],
            num_layers=config["num_layers"],
            relative_attention_num_buckets=config["num_buckets"],
            feed_forward_proj="gated-gelu",
        )
    )
    fill(network, text_tensors(load_file(GOLDEN / "t5_upstream.safetensors")))
    case = load_case("t5_cases.safetensors")
    embeds = embed_text(network, case["input_ids"], case["attention_mask"])
    for row, ours in enumerate(embeds):
        assert_agrees(f"umT5 prompt {row}", ours, case["out"][row, : len(ours)])


@cache
def image_encoder() -> CLIPVisionModel:
    config = load_json("clip_config.json")
    network = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config["dim"],
            intermediate_size=config["dim"] * config["mlp_ratio"],
            num_hidden_layers=config["num_layers"],
            num_attention_heads=config["num_heads"],
            image_size=config["image_size"],
            patch_size=config["patch_size"],
            hidden_act=config["activation"],
        )
    )
    return fill(network, image_tensors(load_file(GOLDEN / "clip_upstream.safetensors")))


def test_image_preprocessing() -> None:
    case = load_case("clip_cases.safetensors")
    assert_agrees("CLIP pixels", resize_for_clip(case["image"], case["preprocessed"].shape[-1]), case["preprocessed"])


def test_image_encoder() -> None:
    case = load_case("clip_cases.safetensors")
    assert_agrees("CLIP tokens", embed_image(image_encoder(), case["image"]), case["out"])


SAMPLER_RUNS = sorted(path.stem for path in GOLDEN.glob("sampler_*.json"))


@cache
def run_sampler(name: str) -> Tensor:
    """Final latents of a recorded run, from its noise, portrait latents, text, image tokens and waveform."""
    config, case = load_json(f"{name}.json"), load_case(f"{name}.safetensors")
    # All runs are planned as published; only those of the published code as it is give the windows too much speech.
    surplus = PUBLISHED_SURPLUS if "head" in name else 0
    plan = plan_published(config["total_frames"], latents_for(config["clip_frames"]), config["overlap"], surplus)
    assert plan.num_latents == case["initial_latents"].shape[2]
    encoder = Wav2Vec2Model.from_pretrained(GOLDEN / "wav2vec2").eval()
    prompts = [case["prompt"], case["negative_prompt"]]
    weights = schedule_weights(guidance_weights, config["steps"], config["text_scale"], config["audio_scale"])
    with torch.inference_mode():
        conditions = Conditions(
            portrait_BCFHW=add_mask(case["masked_latents"]),
            image_BIE=case["clip_context"],
            text_BTE=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True),
            audio=[embed_speech(encoder, speech) for speech in plan.cut_speech(case["waveform"].numpy())],
        )
        return sample(
            guided_velocity(transformer(), conditions, weights, plan.window_latents),
            SamplerState(latents_BCFHW=case["initial_latents"]),
            plan.windows,
            RAMPS[config["weighting"]](config["overlap"]),
            euler_scheduler(config["steps"], config["shift"]),
        )


@pytest.mark.parametrize("name", SAMPLER_RUNS)
def test_schedule(name: str) -> None:
    config = load_json(f"{name}.json")
    scheduler = euler_scheduler(config["steps"], config["shift"])
    torch.testing.assert_close(scheduler.timesteps, torch.tensor(config["timesteps"]))
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(config["sigmas"]))


@pytest.mark.parametrize("name", SAMPLER_RUNS)
def test_sampler_latents(name: str) -> None:
    assert_agrees(f"{name} latents", run_sampler(name), load_case(f"{name}.safetensors")["final_latents"])


@pytest.mark.parametrize("name", SAMPLER_RUNS)
def test_sampler_frames(name: str) -> None:
    case = load_case(f"{name}.safetensors")
    video = torch.cat(list(decode_frames(vae(), run_sampler(name))), dim=2)
    assert video.shape[2] == frames_of(case["final_latents"].shape[2])
    frames = video[0][:, case["decoded_frame_index"]] / 2 + 0.5
    assert_agrees(f"{name} frames", frames, case["decoded_frames"])
