from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar.avatar import CPU_THREADS, NUM_PORTRAITS, Avatar
from stableavatar.checkpoint import NoCheckpoint
from stableavatar.course import Course
from stableavatar.errors import OutOfMemory
from stableavatar.model.lora import Lora, LowRank
from stableavatar.reproducible import reproducible
from stableavatar.request import VideoRequest
from stableavatar.sampling.settings import Sampling
from stableavatar.video.quality import check_contract, measure_video
from tests.small import PRESET, Exhausted, small_request


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return Avatar.load(PRESET, "cpu")


@pytest.fixture(scope="module")
def make_request(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., VideoRequest]:
    return partial(small_request, tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("num_frames", [1, 2, 16, 19])
def test_a_video_of_any_length_keeps_the_contract(
    avatar: Avatar, make_request: Callable[..., VideoRequest], tmp_path: Path, num_frames: int
) -> None:
    done: list[int] = []
    path = str(tmp_path / "video.mp4")
    report = avatar.generate(make_request(num_frames), path, on_progress=done.append)
    check_contract(measure_video(path), num_frames=num_frames, width=96, height=160)
    assert report.num_windows == (1 if num_frames <= 17 else 2)
    assert sum(done) == report.num_windows


def test_the_same_request_gives_the_same_file(
    avatar: Avatar, make_request: Callable[..., VideoRequest], tmp_path: Path
) -> None:
    request = make_request(20)

    def render(name: str, wanted: VideoRequest, by: Avatar = avatar) -> bytes:
        by.generate(wanted, str(tmp_path / name))
        return (tmp_path / name).read_bytes()

    first = render("a.mp4", request)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    assert render("t.mp4", request) == first
    torch.set_num_threads(threads)
    assert render("b.mp4", request, Avatar.load(PRESET, "cpu")) == first
    for changed in [
        replace(request, seed=4),
        replace(request, text_scale=1.0),
        replace(request, audio_scale=1.0),
        replace(request, prompt_embeds=request.prompt_embeds + 1),
        replace(request, negative_prompt_embeds=request.negative_prompt_embeds + 1),
        replace(request, speech=request.speech[::-1].copy()),
        replace(request, portrait_HWC=255 - request.portrait_HWC),
    ]:
        assert render("c.mp4", changed) != first


@pytest.mark.parametrize("num_frames", [16, 20])
def test_the_reference_mode_keeps_the_contract_too(
    avatar: Avatar, make_request: Callable[..., VideoRequest], tmp_path: Path, num_frames: int
) -> None:
    path = str(tmp_path / "video.mp4")
    avatar.generate(replace(make_request(num_frames), sampling=Sampling(mode="reference")), path)
    quality = measure_video(path)
    check_contract(quality, num_frames=num_frames, width=96, height=160)
    # Whole groups of four frames behind the first one are made, the rest of the last group is held.
    num_held = 0 if num_frames < 17 else (num_frames - 1) % 4
    assert quality.num_frozen_frames >= num_held


def test_every_setting_changes_the_video(avatar: Avatar, make_request: Callable[..., VideoRequest]) -> None:
    request = replace(make_request(22), num_steps=2, overlap=3)

    def sampled(wanted: VideoRequest) -> bytes:
        with torch.inference_mode(), reproducible(CPU_THREADS):  # as `generate`
            return (
                avatar._sample(wanted, avatar._plan(wanted), Course(lambda _: None, NoCheckpoint())).numpy().tobytes()
            )

    today = sampled(request)
    assert sampled(replace(request, text_scale="3", audio_scale="5x1, 5")) == today
    settings = (
        Sampling(mode="reference"),
        Sampling(blend="log"),
        Sampling(scheduler="unipc"),
        Sampling(scheduler="dpm++"),
        Sampling(window_latents=6),
        Sampling(guidance="native"),
        Sampling(guidance="native", native_pair=0),
    )
    changed = [replace(request, audio_scale="5x1,1"), *(replace(request, sampling=sampling) for sampling in settings)]
    assert len({today, *map(sampled, changed)}) == 1 + len(changed)


def test_out_of_memory_lowers_the_mode_once(make_request: Callable[..., VideoRequest], tmp_path: Path) -> None:
    avatar, request, path = Avatar.load(PRESET, "cpu"), replace(make_request(5), num_steps=2), tmp_path / "video.mp4"
    assert avatar.memory.mode == "full"
    avatar.generate(request, str(path))
    expected = path.read_bytes()
    done: list[int] = []
    trap = Exhausted(avatar.transformer, passes=[2])
    avatar.generate(request, str(path), on_progress=done.append)
    trap.hook.remove()
    assert done == [1, -1, 1, 1, 0, 0]  # and for each latent frame that is decoded, the sign that it goes on
    assert avatar.memory.mode == "model_offload"
    assert path.read_bytes() == expected


@pytest.mark.parametrize("mode", ["model_offload", "group_offload", "fp8", "fp8_group_offload"])
def test_a_video_in_every_memory_mode(
    avatar: Avatar, make_request: Callable[..., VideoRequest], tmp_path: Path, mode: str
) -> None:
    request, path = make_request(5), tmp_path / "video.mp4"
    avatar.generate(request, str(path))
    expected = path.read_bytes()
    small = Avatar.load(replace(PRESET, memory=mode), "cpu")
    small.generate(request, str(path))
    assert (path.read_bytes() == expected) == (not mode.startswith("fp8"))
    check_contract(measure_video(str(path)), num_frames=5, width=96, height=160)


def test_loras_are_the_requests_own(avatar: Avatar, make_request: Callable[..., VideoRequest], tmp_path: Path) -> None:
    request, path = make_request(5), tmp_path / "video.mp4"
    layer = avatar.transformer.blocks[0].attn1.to_q
    random = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=random) for shape in ((2, layer.in_features), (layer.out_features, 2)))
    lora = Lora(path="a", layers={"blocks.0.attn1.to_q": LowRank(down, up, 1.0)})

    def render(*loras: tuple[Lora, float]) -> bytes:
        avatar.generate(replace(request, loras=loras), str(path))
        return path.read_bytes()

    before = render()
    assert render((lora, 1.0)) != before
    assert render() == before


def test_too_little_memory_is_an_error_of_the_row(make_request: Callable[..., VideoRequest], tmp_path: Path) -> None:
    avatar = Avatar.load(PRESET, "cpu")
    Exhausted(avatar.transformer, passes=[1, 2])
    with pytest.raises(OutOfMemory, match="96x160"):
        avatar.generate(make_request(5), str(tmp_path / "video.mp4"))
    assert avatar.memory.mode == "model_offload"
    lowest = Avatar.load(replace(PRESET, memory="group_offload"), "cpu")
    Exhausted(lowest.transformer, passes=[1])
    with pytest.raises(OutOfMemory, match="96x160"):
        lowest.generate(make_request(5), str(tmp_path / "video.mp4"))


def test_the_audio_encoder_runs_once_for_each_window(
    avatar: Avatar, make_request: Callable[..., VideoRequest], tmp_path: Path
) -> None:
    calls: list[int] = []
    hook = avatar.audio_encoder.register_forward_hook(lambda *_: calls.append(1))
    report = avatar.generate(replace(make_request(40), num_steps=3), str(tmp_path / "video.mp4"))
    hook.remove()
    assert len(calls) == report.num_windows > 1


@pytest.mark.parametrize("mode", ["full", "model_offload"])
def test_a_portrait_of_many_rows_is_encoded_once(
    make_request: Callable[..., VideoRequest], tmp_path: Path, mode: str
) -> None:
    avatar, path = Avatar.load(replace(PRESET, memory=mode), "cpu"), tmp_path / "video.mp4"
    encoded: list[str] = []
    avatar.vae.encoder.register_forward_hook(lambda *_: encoded.append("vae"))
    avatar.image_encoder.register_forward_hook(lambda *_: encoded.append("image"))

    def render(request: VideoRequest) -> tuple[bytes, int]:
        encoded.clear()
        avatar.generate(request, str(path))
        return path.read_bytes(), encoded.count("image")

    request = make_request(5)
    first, other = request.portrait_HWC, 255 - request.portrait_HWC
    expected = render(request)
    assert expected[1] == 1 and encoded.count("vae") > 0
    assert render(replace(request, portrait_HWC=first.copy())) == (expected[0], 0)
    assert encoded == []
    assert render(replace(request, seed=4))[1] == 0
    assert render(replace(request, sampling=Sampling(window_latents=6)))[1] == 1
    assert render(replace(request, portrait_HWC=other))[1] == 1
    assert render(request) == (expected[0], 0)
    for shade in range(NUM_PORTRAITS):  # the oldest make room
        assert render(replace(request, portrait_HWC=np.full_like(first, shade)))[1] == 1
    assert len(avatar.portraits) == NUM_PORTRAITS
    assert render(request) == (expected[0], 1)
