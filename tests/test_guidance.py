import itertools

import pytest
import torch

from stableavatar.sampling.guidance import (
    EVERYTHING,
    NO_AUDIO,
    NO_PAIR,
    NOTHING,
    SPEECH,
    guidance_weights,
    native_weights,
    schedule_weights,
)

SCALES = (0.0, 1.0, 3.0, 5.0)


@pytest.mark.parametrize(("text_scale", "audio_scale"), itertools.product(SCALES, SCALES))
def test_weights_are_the_formula(text_scale: float, audio_scale: float) -> None:
    predictions = {
        row: torch.randn(8, generator=torch.Generator().manual_seed(n))
        for n, row in enumerate((NOTHING, SPEECH, EVERYTHING))
    }
    u, a, c = predictions.values()
    expected = u + audio_scale * (a - u) + text_scale * (c - a)
    weighted = sum(weight * predictions[row] for row, weight in guidance_weights(text_scale, audio_scale).items())
    torch.testing.assert_close(weighted, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text_scale", "audio_scale", "rows"),
    [
        (3.0, 5.0, {NOTHING, SPEECH, EVERYTHING}),
        (3.0, 3.0, {NOTHING, EVERYTHING}),
        (3.0, 1.0, {SPEECH, EVERYTHING}),
        (0.0, 5.0, {NOTHING, SPEECH}),
        (1.0, 1.0, {EVERYTHING}),
        (0.0, 0.0, {NOTHING}),
    ],
)
def test_rows_without_weight_are_not_computed(text_scale: float, audio_scale: float, rows: set) -> None:
    assert set(guidance_weights(text_scale, audio_scale)) == rows


def test_native_guidance_is_the_formula() -> None:
    assert native_weights(4, 3) == {EVERYTHING: 8, NO_AUDIO: -4, NO_PAIR: -3}
    assert native_weights(0, 3) == {EVERYTHING: 4, NO_PAIR: -3}
    assert native_weights(0, 0) == {EVERYTHING: 1}


def test_scales_change_from_step_to_step() -> None:
    weights = schedule_weights(guidance_weights, 4, "3x1,1", "5x2,1")
    assert weights == (
        guidance_weights(3, 5),
        guidance_weights(1, 5),
        {EVERYTHING: 1},
        {EVERYTHING: 1},
    )
