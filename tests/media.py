"""Sounds and pictures that tests make for themselves."""

import wave
from pathlib import Path

import numpy as np


def write_tone(path: Path, *, duration_s: float, sample_rate: int = 48_000, frequency_hz: float = 220.0) -> None:
    """Write a 16-bit mono WAV file of a sine."""
    num_samples = round(duration_s * sample_rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        for start in range(0, num_samples, sample_rate):  # an hour of it would not be small
            times = np.arange(start, min(start + sample_rate, num_samples)) / sample_rate
            file.writeframes((np.sin(2 * np.pi * frequency_hz * times) * 20_000).astype("<i2").tobytes())
