from pathlib import Path

import numpy as np
import pytest
import torch

from stableavatar.audio.decode import decode_speech
from stableavatar.model.conditions import (
    PAUSE_RMS,
    TextEncoder,
    audio_network,
    embed_image,
    embed_speech,
    image_network,
)
from stableavatar.presets import tiny
from stableavatar.units import SPEECH_RATE
from tests.sounds import signal, write_samples


def test_text_embeddings_end_with_the_prompt() -> None:
    encoder = TextEncoder.load(tiny(), "cpu")
    short, long = encoder.encode("hi"), encoder.encode("x" * 500)
    assert short.shape == (3, 32)  # two bytes and the end of the text
    assert long.shape == (64, 32)
    assert short.dtype == np.float32
    assert not np.allclose(short, encoder.encode("ho"))


def test_an_empty_prompt_has_an_embedding() -> None:
    assert TextEncoder.load(tiny(), "cpu").encode("").shape == (1, 32)


def test_image_tokens() -> None:
    network = image_network(tiny())
    images = torch.rand(1, 3, 96, 64) * 2 - 1
    assert embed_image(network, images).shape == (1, 17, 40)


def test_loudness_of_the_window_does_not_matter() -> None:
    network = audio_network(tiny())
    speech = np.random.default_rng(0).standard_normal(81 * 640).astype(np.float32) * 0.1
    tokens = embed_speech(network, speech)
    assert tokens.shape == (1, 161, 24)
    torch.testing.assert_close(embed_speech(network, speech * 3 + 0.2), tokens, atol=1e-3, rtol=1e-3)


def test_silence_is_finite() -> None:
    assert torch.isfinite(embed_speech(audio_network(tiny()), np.zeros(81 * 640, np.float32))).all()


def test_speech_drives_the_same_at_any_level_but_a_pause_stays_a_pause(tmp_path: Path) -> None:
    """A sentence, and after it nothing but faint noise: both loud, and 40 dB quieter."""
    network, window = audio_network(tiny()), 2 * SPEECH_RATE
    sentence, hiss = signal(48_000, 2), 1e-4 * np.random.default_rng(0).standard_normal(96_000).astype(np.float32)
    sound = np.concatenate([sentence, hiss])
    loud, quiet = (decode_speech(write_samples(tmp_path / "a.wav", sound * g, 48_000)) for g in (1, 0.01))
    spoken = embed_speech(network, loud[:window], PAUSE_RMS)
    torch.testing.assert_close(embed_speech(network, quiet[:window], PAUSE_RMS), spoken, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embed_speech(network, loud[:window]), spoken)
    silence = embed_speech(network, np.zeros(window - 2000, np.float32), PAUSE_RMS)
    for speech in (loud, quiet):
        pause = speech[window + 1000 : -1000]
        torch.testing.assert_close(embed_speech(network, pause, PAUSE_RMS), silence)
        assert (embed_speech(network, pause) - silence).norm() > 0.5 * silence.norm()  # as it would be blown up


@pytest.mark.parametrize("factor_db", [-30, -40])
def test_speech_far_below_the_loudest_still_drives(tmp_path: Path, factor_db: int) -> None:
    network, loud = audio_network(tiny()), signal(SPEECH_RATE, 2)
    sound = np.concatenate([loud, loud * 10 ** (factor_db / 20)])
    speech = decode_speech(write_samples(tmp_path / "a.wav", sound, SPEECH_RATE))
    near, far = speech[1000 : len(loud) - 1000], speech[len(loud) + 1000 : -1000]
    expected = embed_speech(network, near, PAUSE_RMS)
    torch.testing.assert_close(embed_speech(network, far, PAUSE_RMS), expected, atol=1e-2, rtol=1e-2)


def test_faint_noise_beside_speech_is_a_pause() -> None:
    network = audio_network(tiny())
    noise = 10 ** (-75 / 20) * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    silence = embed_speech(network, np.zeros(16_000, np.float32), PAUSE_RMS)
    torch.testing.assert_close(embed_speech(network, noise, PAUSE_RMS), silence)
