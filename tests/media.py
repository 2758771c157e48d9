"""Sounds and pictures that tests make for themselves."""

import wave
from pathlib import Path

import numpy as np


def write_tone(path: Path, *, duration_s: float, sample_rate: int = 48_000, frequency_hz: float = 220.0) -> None:
    """Write a 16-bit mono WAV file of a sine."""
    times = np.arange(round(duration_s * sample_rate)) / sample_rate
    samples = (np.sin(2 * np.pi * frequency_hz * times) * 20_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())
