import itertools

import pytest
import torch

from stableavatar.sampling.guidance import EVERYTHING, NOTHING, SPEECH, guidance_weights

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
