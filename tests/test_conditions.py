import numpy as np
import torch

from stableavatar.model.conditions import TextEncoder, audio_network, embed_image, embed_speech, image_network
from stableavatar.presets import tiny


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
