from typing import Any

import numpy as np
import pytest

from stableavatar.audio.edges import FADE_S, shaped
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput

RATE = 1000
FADE = round(FADE_S * RATE)
RISE = np.arange(1, FADE + 1) / (FADE + 1)


def shape(num_given: int, span: Span, piece: int = 7, num_samples: int | None = None) -> np.ndarray:
    """What becomes of so many ones that come in pieces."""
    ones = np.ones((num_given, 2), np.float32)
    pieces = (ones[start : start + piece] for start in range(0, num_given, piece))
    return np.concatenate(list(shaped(pieces, span, RATE, channels=2, num_samples=num_samples)))[:, 1]


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_whole_sound_is_untouched(piece: int) -> None:
    np.testing.assert_array_equal(shape(100, Span(), piece), np.ones(100))


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_cut_fades_on_the_side_where_it_is(piece: int) -> None:
    after = shape(100, Span(start_s=0.5), piece)
    np.testing.assert_allclose(after[:FADE], RISE, rtol=1e-6)
    np.testing.assert_array_equal(after[FADE:], 1)
    before = shape(110, Span(end_s=0.1), piece)
    assert len(before) == 100
    np.testing.assert_allclose(before[-FADE:], RISE[::-1], rtol=1e-6)
    np.testing.assert_array_equal(before[:-FADE], 1)


@pytest.mark.parametrize("num_given", [80, 100])
def test_an_end_where_the_medium_ends_is_no_cut(num_given: int) -> None:
    np.testing.assert_array_equal(shape(num_given, Span(end_s=0.1)), np.ones(num_given))


def test_silence_is_added_and_what_borders_on_it_fades() -> None:
    found = shape(100, Span(pad_before_s=0.02, pad_after_s=0.03))
    assert len(found) == 150
    np.testing.assert_array_equal(found[:20], 0)
    np.testing.assert_array_equal(found[120:], 0)
    np.testing.assert_allclose(found[20 : 20 + FADE], RISE, rtol=1e-6)
    np.testing.assert_allclose(found[120 - FADE : 120], RISE[::-1], rtol=1e-6)
    np.testing.assert_array_equal(found[20 + FADE : 120 - FADE], 1)


@pytest.mark.parametrize("num_given", [1, 3, 8])
def test_a_sound_shorter_than_its_fades_keeps_its_length(num_given: int) -> None:
    found = shape(num_given, Span(pad_before_s=0.01, pad_after_s=0.01))
    assert len(found) == num_given + 20
    assert (found[10:-10] > 0).all() and found.max() < 1


def test_a_length_that_is_asked_for_is_given() -> None:
    longer = shape(100, Span(), num_samples=120)
    np.testing.assert_array_equal(longer, [1] * 100 + [0] * 20)  # silence nobody asked for is no cut
    shorter = shape(100, Span(pad_before_s=0.01), num_samples=50)
    assert len(shorter) == 50 and shorter[-1] < 0.2  # the sound would go on
    ended = shape(100, Span(end_s=0.05, pad_after_s=0.01), num_samples=90)
    np.testing.assert_array_equal(ended[50:], 0)
    assert len(ended) == 90 and len(shape(100, Span(pad_before_s=0.5), num_samples=20)) == 20


@pytest.mark.parametrize("times", [{"start_s": -1}, {"pad_after_s": float("nan")}, {"start_s": 2, "end_s": 2}])
def test_times_that_are_none_are_refused(times: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"Give seconds|Let end_s"):
        Span(**times)
