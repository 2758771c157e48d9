from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stableavatar.api import StableAvatar
from tests.heldout import NO_MODULATION, Studio, Take, adapter_told, clip_of, true_frames
from tests.small import PRESET

SHORT = Take(seed=1_000_000, num_frames=17, choices=(("num_steps", 1),))


@pytest.fixture(scope="module")
def model() -> StableAvatar:
    return StableAvatar(replace(PRESET, sizes=((64, 64),)), device="cpu")


def test_a_film_is_made_once_and_every_take_has_its_own(model: StableAvatar, tmp_path: Path) -> None:
    made: list[str] = []
    studio = Studio(model=model, folder=tmp_path / "films", on_film=made.append)
    frames = np.stack(list(studio.frames(SHORT)))
    assert frames.shape == (17, 64, 64, 3)
    again = Studio(model=model, folder=studio.folder, on_film=made.append)
    np.testing.assert_array_equal(np.stack(list(again.frames(SHORT))), frames)
    others = [replace(SHORT, speech_seed=1_000_001), replace(SHORT, adapter_time=500.0), replace(SHORT, choices=())]
    for other in others[:2]:
        assert np.abs(np.stack(list(studio.frames(other))).astype(int) - frames).max() > 0
    assert made == [SHORT.name, *(other.name for other in others[:2])]
    assert len({SHORT.name, *(other.name for other in others)}) == 4
    assert len(studio.judged(SHORT).mouth_V) == 17


def test_truth_and_ceiling_are_of_the_drawn_frames(model: StableAvatar, tmp_path: Path) -> None:
    studio = Studio(model=model, folder=tmp_path)
    drawn = np.stack(list(true_frames(clip_of(SHORT.seed, SHORT.num_frames), studio.size)))
    luma_V = (drawn @ [0.299, 0.587, 0.114]).mean(axis=(1, 2))
    np.testing.assert_allclose(studio.truth(SHORT).colours_V3[:, 0], luma_V)
    assert studio.ceiling(SHORT).mouth_V.shape == (17,)  # of random weights: noise
    assert not list(tmp_path.iterdir())


def test_what_the_adapter_is_told(model: StableAvatar) -> None:
    transformer, random = model.avatar.transformer, torch.Generator().manual_seed(0)
    latents, audio = torch.randn(1, 36, 5, 8, 8, generator=random), torch.randn(1, 27, 24, generator=random)
    text, image = torch.randn(1, 7, 32, generator=random), torch.randn(1, 17, 40, generator=random)

    @torch.inference_mode()
    def velocity(time: float) -> Tensor:
        return transformer(latents, torch.tensor([time]), text, image, audio, [0])

    untouched = velocity(300.0)
    for told, is_same in ((300.0, True), (900.0, False), (NO_MODULATION, False), (None, True)):
        with adapter_told(transformer, told):
            assert torch.equal(velocity(300.0), untouched) == is_same
    assert torch.equal(velocity(300.0), untouched)
