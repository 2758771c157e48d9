import logging

import numpy as np
import pytest

from stableavatar.drawn.espeak import Phoneme, Voice, speak
from stableavatar.drawn.scene import plan_clip
from stableavatar.drawn.sentences import SPLITS
from stableavatar.drawn.visemes import CLOSED, SHAPES, mouth_curve, segments, visemes


def phonemes(*parts: tuple[str, float]) -> list[Phoneme]:
    """Names with their durations, one after the other."""
    found, at_s = [], 0.0
    for name, duration_s in parts:
        found.append(Phoneme(name=name, start_s=at_s, end_s=at_s + duration_s))
        at_s += duration_s
    return found


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("ˈɑː", ("a",)), ("aɪ", ("a", "i")), ("tʃ", ("t d n l", "sh")), ("", ("silence",)), ("ɔ̃", ("o",)),
        ("n̩", ("t d n l",)), ("ˈəʊ", ("neutral", "u")), ("ɡ", ("k g",)),
    ],
)  # fmt: skip
def test_classes(name: str, classes: tuple[str, ...]) -> None:
    assert visemes(name) == classes


def test_shapes_are_within_their_bounds_and_closed_lips_are_closed() -> None:
    assert all(0 <= value <= 1 for shape in SHAPES.values() for value in (shape.opening, shape.width))
    assert all(SHAPES[name].opening == 0 for name in CLOSED)
    assert len(SHAPES) >= 12


def test_an_unknown_phoneme_is_half_open_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert visemes("ʘ") == visemes("ʘ") == ("neutral",)
    assert len(caplog.records) == 1
    assert "U+0298" in caplog.text


def test_every_phoneme_of_our_sentences_has_a_class(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for split in SPLITS:
            for seed in range(40):
                list(segments(plan_clip(seed, split, 50).speech.phonemes))
    assert caplog.text == ""


@pytest.mark.parametrize("shift_s", [0.0, 0.013, 0.027])
def test_lips_close_at_p_b_m_and_open_between(shift_s: float) -> None:
    said = phonemes(("", 0.2 + shift_s), ("ɑ", 0.2), ("m", 0.07), ("a", 0.2), ("p", 0.06), ("a", 0.2), ("b", 0.05))
    curve = mouth_curve(said, 25)
    assert curve.dtype == np.float32
    assert curve.shape == (25, 2)
    for phoneme in said:
        frame = int((phoneme.start_s + phoneme.end_s) / 2 * 25)
        if phoneme.name in ("m", "p", "b"):
            assert curve[frame, 0] == 0
        elif phoneme.name:
            assert curve[frame, 0] > 0.8
    assert (curve[:3, 0] == 0).all()
    assert (curve[-1, 0] == 0).all(), "after the last phoneme"


def test_neighbouring_frames_flow_into_each_other() -> None:
    curve = mouth_curve(phonemes(("", 0.4), ("a", 0.4), ("", 0.4)), 1200, fps=1000)
    assert np.abs(np.diff(curve[:, 0])).max() < 0.02  # of a millisecond
    assert curve[600, 0] == pytest.approx(1, abs=0.01)


def test_rounded_and_spread() -> None:
    curve = mouth_curve(phonemes(("u", 0.4), ("i", 0.4)), 20)
    assert curve[5, 1] < 0.05
    assert curve[15, 1] > 0.95


def test_short_pauses_leave_the_mouth_open() -> None:
    curve = mouth_curve(phonemes(("a", 0.3), ("", 0.05), ("a", 0.3)), 16)
    assert curve[3:13, 0].min() > 0.9


def lag_ms(one: np.ndarray, other: np.ndarray) -> int:
    """By how much `other` is later, in samples of 1 ms."""
    one, other = one - one.mean(), other - other.mean()
    return int(np.argmax([np.dot(one[200:-200], np.roll(other, -lag)[200:-200]) for lag in range(-150, 151)])) - 150


@pytest.mark.parametrize("language", ["en-us", "de", "it"])
def test_the_mouth_neither_leads_nor_lags_the_phonemes(language: str) -> None:
    spoken = speak("Mama Papa Amanda, banana obama. Abba, mama, bambini.", Voice(language=language))
    times_s = (np.arange(int(spoken.duration_s * 1000)) + 0.5) / 1000
    steps = np.zeros(len(times_s))
    for viseme, start_s, end_s in segments(spoken.phonemes):
        steps[(times_s >= start_s) & (times_s < end_s)] = SHAPES[viseme].opening
    assert abs(lag_ms(steps, mouth_curve(spoken.phonemes, len(times_s), fps=1000)[:, 0])) <= 10


def test_an_open_mouth_is_heard_when_it_is_seen() -> None:
    spoken = speak("Mama Papa Amanda, banana. Abba, mama, bambini.", Voice(language="it"))
    envelope = np.convolve(spoken.samples**2, np.hanning(640), "same")[8::16] ** 0.5
    curve = mouth_curve(spoken.phonemes, len(envelope), fps=1000)[:, 0]
    assert np.corrcoef(envelope, curve)[0, 1] > 0.5
    assert abs(lag_ms(envelope, curve)) <= 40
