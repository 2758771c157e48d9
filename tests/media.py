"""Sounds and pictures that tests make for themselves."""

import os
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stableavatar.tracks import Track
from stableavatar.video.writer import PieceWriter, join


@contextmanager
def video_writer(
    path: str, *, num_frames: int, sound_path: str, language: str = "", tracks: Sequence[Track] = (), **size: Any
) -> Iterator[PieceWriter]:
    """A video of one piece, with its sound: what is written becomes its frames."""
    piece = f"{path}.piece"
    with PieceWriter(piece, num_frames=num_frames, **size) as writer:
        yield writer
    join([(piece, num_frames)], sound_path, path, language=language, tracks=tracks)
    os.remove(piece)


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
