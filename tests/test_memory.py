"""What a CPU can show: the modes' hooks work and give the same numbers. That they save memory only a GPU can show."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.memory import Memory, choose_mode, free_bytes, is_fp8, lower_mode
from stableavatar.model.vae import decode_frames
from stableavatar.model.weights import random_network
from stableavatar.presets import tiny

CPU = torch.device("cpu")


def build() -> StableAvatarTransformer:
    return random_network(lambda: StableAvatarTransformer(**tiny().transformer), 0)


def memory(mode: str, transformer: StableAvatarTransformer, networks: Sequence[nn.Module] = ()) -> Memory:
    networks = networks or (nn.Linear(2, 2), nn.Linear(2, 2))
    return Memory(networks=networks, transformer=transformer, device=CPU, mode=mode)


def predict(transformer: StableAvatarTransformer, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    with torch.inference_mode():
        return transformer(
            draw(2, 36, 5, 4, 6), torch.full((2,), 500.0), draw(2, 7, 32), draw(2, 17, 40), draw(1, 33, 24), [None, 0]
        ).float()


EXPECTED = predict(build())


@pytest.mark.parametrize("mode", ["auto", "full", "model_offload", "group_offload"])
def test_offloading_does_not_change_a_bit(mode: str) -> None:
    transformer = build()
    placed = memory(mode, transformer)
    assert placed.mode == ("full" if mode == "auto" else mode)
    assert torch.equal(predict(transformer), EXPECTED)
    assert torch.equal(predict(transformer), EXPECTED)


@pytest.mark.parametrize("mode", ["fp8", "fp8_group_offload"])
def test_fp8_stores_in_8_bits_and_computes_in_16(mode: str) -> None:
    transformer = build()
    memory(mode, transformer)
    assert is_fp8(transformer) and transformer.dtype == torch.bfloat16
    stored = sum(p.numel() for p in transformer.blocks.parameters() if p.dtype == torch.float8_e4m3fn)
    assert stored > 0.95 * sum(p.numel() for p in transformer.blocks.parameters())
    kept = {p.dtype for name, p in transformer.named_parameters() if "norm" in name or "embedd" in name}
    assert torch.float8_e4m3fn not in kept
    rounded = predict(transformer, torch.bfloat16)
    sixteen = predict(build().to(torch.bfloat16), torch.bfloat16)
    assert torch.cosine_similarity(rounded.flatten(), EXPECTED.flatten(), dim=0) > 0.99
    assert 0 < (rounded - sixteen).norm() / EXPECTED.norm() < 0.1
    assert torch.equal(predict(transformer, torch.bfloat16), rounded)


def test_going_down_the_ladder_keeps_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    transformer = build()
    placed = memory("full", transformer)
    modes = [placed.mode]
    with caplog.at_level(logging.WARNING):
        while placed.lower():
            modes.append(placed.mode)
            assert torch.equal(predict(transformer), EXPECTED)
    assert modes == ["full", "model_offload", "group_offload"]
    assert "model_offload" in caplog.text
    assert lower_mode("fp8") == "fp8_group_offload" and lower_mode("fp8_group_offload") is None


class Wanderer(nn.Module):
    """A network without weights that says where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.place = CPU

    def parameters(self, recurse: bool = True) -> Any:
        return iter([SimpleNamespace(device=self.place)])

    def to(self, place: Any) -> Any:  # type: ignore[override]
        self.place = torch.device(place)
        return self

    def forward(self, x: Tensor) -> Tensor:
        assert x.device == self.place
        return x


def test_networks_take_turns() -> None:
    """The meta device stands for the GPU: whoever is called goes there, and the one before leaves."""
    networks: list[Any] = [Wanderer() for _ in range(4)]
    Memory(networks=networks[:3], transformer=networks[3], device=torch.device("meta"), mode="model_offload")
    for index in (0, 1, 2, 2, 3, 3, 0, 0, 1):
        networks[index](torch.zeros(1, device=networks[index].place))
        assert [network.place.type == "meta" for network in networks] == [place == index for place in range(4)]


def test_the_vae_comes_for_decoding() -> None:
    vae = random_network(lambda: AutoencoderKLWan(**tiny().vae), 0)
    latents = torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.cat(list(decode_frames(vae, latents)), dim=2)
    memory("model_offload", build(), (vae, nn.Linear(2, 2)))
    come = Mock(side_effect=vae._hf_hook.pre_forward)
    vae._hf_hook.pre_forward = come
    assert torch.equal(torch.cat(list(decode_frames(vae, latents)), dim=2), expected)
    assert come.call_count == 3


def test_auto_takes_the_fastest_that_fits() -> None:
    transformer = build()
    networks = [nn.Linear(1000, 1000, bias=False)]  # 4 MB
    weights = 4_000_000 + sum(p.nbytes for p in transformer.parameters())
    working = 3 * 32_760 * 3 * 96 * 2

    def choose(free: float | None) -> str:
        return choose_mode(networks, transformer, None if free is None else round(free / 0.9))

    assert choose(None) == choose(weights + working + 9) == "full"
    assert choose(weights + working - 9) == choose(4_000_000 + working + 9) == "model_offload"
    assert choose(4_000_000 + working - 9) == choose(0) == "group_offload"


def test_unknown_modes_name_what_there_is() -> None:
    with pytest.raises(ValueError, match="no memory mode 'tiny'; there is: auto, full, model_offload"):
        memory("tiny", build())


def test_a_process_that_has_a_part_of_a_gpu_plans_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that load their networks at the same time both find the whole GPU free."""
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 0.5)
    assert free_bytes(gpu) == 40
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 80))
    assert free_bytes(gpu) == 30
    assert free_bytes(CPU) is None
