import numpy as np
import pytest
import torch

from stableavatar.model.vae import encode_portrait, encode_posterior
from stableavatar.presets import tiny
from stableavatar.segments import as_video
from stableavatar.training.clips import MASKS, ClipWindow
from stableavatar.training.encode import Encoder
from stableavatar.units import SAMPLES_PER_FRAME


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
