import logging
import math
from pathlib import Path

import numpy as np
import pytest

from stableavatar.audio.decode import encode_sound, sound_of
from stableavatar.audio.loudness import Loudness, gain_to, measure_loudness
from stableavatar.audio.source import open_source
from tests.sounds import signal, write_samples


def loudness_of(path: str) -> Loudness:
    return measure_loudness(sound_of(open_source(path)))


def tone(amplitude: float, rate: int = 48_000, seconds: float = 3.0) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * 997 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 96_000])
def test_the_standards_own_tone_has_the_loudness_it_says(tmp_path: Path, rate: int) -> None:
    """BS.1770: a sine of 997 Hz at full scale in one channel is -3.01 LUFS."""
    found = loudness_of(write_samples(tmp_path / "a.wav", tone(0.1, rate), rate))
    assert found.integrated == pytest.approx(-23.01, abs=0.1)  # as the standard allows
    assert found.true_peak == pytest.approx(0.1, abs=0.002)


def test_a_peak_at_the_very_end_is_seen(tmp_path: Path) -> None:
    samples = tone(0.1, seconds=2.05)
    samples[-200:] *= 8
    found = loudness_of(write_samples(tmp_path / "a.wav", samples, 48_000)).true_peak
    assert 0.8 <= found < 0.9  # the step swings over


@pytest.mark.parametrize("samples", [np.zeros(48_000, np.float32), tone(0.5, seconds=0.2)])
def test_silence_and_what_is_too_short_have_no_loudness(tmp_path: Path, samples: np.ndarray) -> None:
    found = loudness_of(write_samples(tmp_path / "a.wav", samples, 48_000))
    assert found.integrated == -70
    assert gain_to(-16, found) == 1


def test_a_gain_stops_where_peaks_would_pass(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert gain_to(-16, Loudness(integrated=-20, true_peak=0.1)) == pytest.approx(10 ** (4 / 20))
        assert gain_to(-30, Loudness(integrated=-20, true_peak=0.8)) == pytest.approx(10 ** (-10 / 20))
    assert not caplog.records
    gain = gain_to(-16, Loudness(integrated=-20, true_peak=0.8), "a.wav")
    assert 20 * math.log10(0.8 * gain) == pytest.approx(-1)
    assert "a.wav gets -19.1 LUFS instead of -16.0" in caplog.text


@pytest.mark.parametrize("target", [-16.0, -30.0])
def test_a_sound_track_has_the_loudness_asked_for(tmp_path: Path, target: float) -> None:
    path = write_samples(tmp_path / "a.wav", signal(48_000) / 4, 48_000)
    encode_sound(path, str(tmp_path / "a.m4a"), duration_s=3.0, loudness=target)
    assert loudness_of(str(tmp_path / "a.m4a")).integrated == pytest.approx(target, abs=0.3)


def test_without_a_wish_the_level_stays(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "a.wav", signal(48_000) / 4, 48_000)
    encode_sound(path, str(tmp_path / "a.m4a"), duration_s=3.0)
    assert loudness_of(str(tmp_path / "a.m4a")).integrated == pytest.approx(loudness_of(path).integrated, abs=0.1)
