from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stableavatar.audio.decode import decode_speech, speech_gain
from stableavatar.model.conditions import PAUSE_RMS, embed_speech
from stableavatar.model.vae import encode_portrait, encode_posterior
from stableavatar.presets import tiny
from stableavatar.segments import as_video
from stableavatar.training.clips import MASKS, ClipWindow
from stableavatar.training.config import Augment
from stableavatar.training.encode import Encoder, encoding_hash, pause_rms
from stableavatar.units import SAMPLES_PER_FRAME, SPEECH_RATE
from tests.training import small_config


@pytest.fixture(scope="module")
def window() -> ClipWindow:
    draw = np.random.default_rng(0)
    return ClipWindow(
        frames_VHWC=draw.integers(0, 256, (9, 32, 48, 3), np.uint8),
        reference_HWC=draw.integers(0, 256, (32, 48, 3), np.uint8),
        speech=draw.normal(size=9 * SAMPLES_PER_FRAME).astype(np.float32),
        masks_VHW={name: np.full((9, 32, 48), 255, np.uint8) for name in MASKS},
        prompt="A person is talking",
    )


def test_a_window_is_encoded_as_in_sampling(window: ClipWindow) -> None:
    encoder = Encoder.load(tiny(), "cpu")
    sample = encoder.encode(window)
    with torch.inference_mode():
        mean, logvar = encode_posterior(encoder.vae, as_video(window.frames_VHWC))
        portrait = encode_portrait(encoder.vae, as_video(window.reference_HWC[None])[:, :, 0], 3)
    for name, expected in (("mean", mean), ("logvar", logvar), ("portrait", portrait)):
        torch.testing.assert_close(sample[name], expected[0], rtol=1e-4, atol=1e-4)
    assert all(bool((sample[name] == 1).all()) and sample[name].shape == (1, 3, 4, 6) for name in ("face", "lip"))
    assert sample["audio"].ndim == 2 and sample["text"].ndim == 2


def test_a_faint_voice_is_heard_as_in_sampling(window: ClipWindow, tmp_path: Path) -> None:
    whole = np.random.default_rng(1).normal(size=3 * SPEECH_RATE).astype(np.float32) * 10 ** (-50 / 20)
    part = np.s_[2 * SPEECH_RATE : 2 * SPEECH_RATE + 9 * SAMPLES_PER_FRAME]
    whole[2 * SPEECH_RATE :] *= 10 ** (-25 / 20)  # below the threshold of a pause at its own loudness, not at -23 LUFS
    path = str(tmp_path / "audio.wav")
    soundfile.write(path, whole, SPEECH_RATE, subtype="PCM_16")
    speech = soundfile.read(path, dtype="float32")[0]
    heard = decode_speech(path)[part]
    assert speech[part].std() < PAUSE_RMS < heard.std()

    encoder = Encoder.load(tiny(), "cpu")
    window = replace(window, speech=speech[part], gain=speech_gain(speech))
    expected = embed_speech(encoder.audio, heard, PAUSE_RMS)[0]
    torch.testing.assert_close(encoder.encode(window)["audio"], expected, rtol=1e-3, atol=1e-3)


def test_what_sampling_takes_for_silence_is_silence_unless_the_run_is_as_published(window: ClipWindow) -> None:
    published = small_config(augment=Augment(silence_as="reference"))
    encoder = Encoder.load(tiny(), "cpu")
    pause, silence = (replace(window, speech=window.speech * factor) for factor in (1e-5, 0.0))
    assert torch.equal(encoder.encode(pause)["audio"], encoder.encode(silence)["audio"])
    encoder = replace(encoder, least_rms=pause_rms(published))
    assert not torch.allclose(encoder.encode(pause)["audio"], encoder.encode(silence)["audio"], atol=1e-2)
    hashes = [encoding_hash(tiny(), pause_rms(config)) for config in (small_config(), published)]
    assert hashes[0] != hashes[1]
