import math
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKLWan

from stableavatar.model.networks import VAE
from stableavatar.model.vae import (
    decode_frames,
    encode_frames,
    encode_portrait,
    encode_video,
    encoder_warm_up_latents,
    warm_up_latents,
)
from stableavatar.model.weights import empty_network, random_network
from stableavatar.presets import tiny
from stableavatar.units import frames_of


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    return random_network(lambda: AutoencoderKLWan(**tiny().vae), 0)


def test_streaming_equals_decoding_the_whole_video(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 6, 4, 6, generator=torch.Generator().manual_seed(0))
    chunks = list(decode_frames(vae, latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4, 4, 4]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    with torch.inference_mode():
        whole = vae.decode(latents * std + mean).sample
    assert torch.equal(torch.cat(chunks, dim=2), whole)


def test_frames_behind_the_warm_up_are_those_of_decoding_from_the_start(
    vae: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_latents = warm_up_latents(vae) + 6
    latents = torch.randn(1, 16, num_latents, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = list(decode_frames(vae, latents))
    for first in (1, num_latents - 2):
        found = list(decode_frames(vae, latents, first))
        assert len(found) == num_latents - first
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected[first:], strict=True))
    # One latent frame fewer would not do.
    monkeypatch.setattr("stableavatar.model.vae.warm_up_latents", lambda _: warm_up_latents(vae) - 1)
    assert not torch.equal(next(decode_frames(vae, latents, num_latents - 2)), expected[-2])


def test_the_warm_up_of_the_published_decoder() -> None:
    """In latent frames: 24 at their own rate, 14 at twice and 26 at four times the rate."""
    published = replace(tiny(), vae={})
    assert warm_up_latents(empty_network(VAE, published)) == 38 == math.ceil(24 + 14 / 2 + 26 / 4)


def video(num_latents: int) -> torch.Tensor:
    return torch.rand(1, 3, frames_of(num_latents), 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def chunks(video_BCVHW: torch.Tensor) -> list[torch.Tensor]:
    return [video_BCVHW[:, :, :1], *video_BCVHW[:, :, 1:].split(4, dim=2)]


def test_encoding_frame_by_frame_equals_encoding_the_whole_video(vae: AutoencoderKLWan) -> None:
    whole = video(5)
    with torch.inference_mode():
        expected = encode_video(vae, whole)
    found = torch.cat(list(encode_frames(vae, chunks(whole))), dim=2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="chunk 1 has 3 frames"):
        list(encode_frames(vae, chunks(whole[:, :, :4])))


def test_latents_behind_the_warm_up_are_those_of_encoding_from_the_start(vae: AutoencoderKLWan) -> None:
    warm_up = encoder_warm_up_latents(vae)
    whole = video(warm_up + 4)
    expected = torch.cat(list(encode_frames(vae, chunks(whole))), dim=2)

    # Encoding begins with the last frame of a latent in the middle, as if it were a video's first.
    found = torch.cat(list(encode_frames(vae, chunks(whole[:, :, 4 * 2 :]))), dim=2)
    is_equal = [torch.equal(found[:, :, n], expected[:, :, n + 2]) for n in range(found.shape[2])]
    assert is_equal == [n >= warm_up for n in range(found.shape[2])]


def test_the_warm_up_of_the_published_encoder() -> None:
    """In latent frames: 20 at four times their rate, 10 at twice and 18 at their own."""
    published = replace(tiny(), vae={})
    assert encoder_warm_up_latents(empty_network(VAE, published)) == 28 == 20 / 4 + 10 / 2 + 18


def test_infinite_values_do_not_become_white(vae: AutoencoderKLWan, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.tensor([0.5, 7.0, float("inf"), float("-inf")]).view(1, 1, 1, 2, 2)
    monkeypatch.setattr("stableavatar.model.vae._decode_latent", lambda *_, **__: frames)
    (decoded,) = decode_frames(vae, torch.zeros(1, 16, 1, 1, 1))
    assert decoded.flatten()[:2].tolist() == [0.5, 1.0]
    assert decoded.flatten()[2:].isnan().all()


def test_a_decode_that_is_given_up_leaves_nothing_behind(vae: AutoencoderKLWan) -> None:
    latents = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = list(decode_frames(vae, latents))
    with closing(decode_frames(vae, torch.randn(1, 16, 3, 4, 6))) as given_up:
        next(given_up)
    for ours, theirs in zip(decode_frames(vae, latents), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_portrait_is_the_first_frame_and_the_only_known_one(vae: AutoencoderKLWan) -> None:
    portrait = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    condition = encode_portrait(vae, portrait, 3)
    assert condition.shape == (1, 20, 3, 4, 6)
    assert (condition[:, :4, 0] == 1).all() and (condition[:, :4, 1:] == 0).all()
    video = torch.cat([portrait[:, :, None], torch.zeros(1, 3, 8, 32, 48)], dim=2)
    assert torch.equal(condition[:, 4:], encode_video(vae, video))
