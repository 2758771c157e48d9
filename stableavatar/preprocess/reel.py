"""Picture and sound of a video, shot after shot, in one go through the file: so memory and time stay small.

Shapes: H W height and width, C colours.
"""

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Self

import av
import numpy as np

from stableavatar.audio.decode import AAC_RATES, read_sound
from stableavatar.audio.source import open_source
from stableavatar.preprocess.footage import Footage, read_footage
from stableavatar.preprocess.layout import Bucket
from stableavatar.preprocess.shots import Shot
from stableavatar.units import FPS, SPEECH_RATE


class Tape:
    """Samples that come once, of which later and later parts are taken."""

    def __init__(self, chunks: Generator[np.ndarray], channels: int) -> None:
        """`chunks`: float32 [n, channels], from sample 0 on."""
        self._chunks = chunks
        self._held = np.zeros((0, channels), np.float32)
        self._start = 0  # number of the first sample that is held

    def part(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Samples [start, stop), piece by piece, with silence behind the last there is. Raises BadInput."""
        while start < stop:
            found = self._held[start - self._start : stop - self._start]
            if len(found):
                yield found
                start += len(found)
                continue
            self._start += len(self._held)
            following = next(self._chunks, None)
            if following is None:
                yield np.zeros((stop - start, self._held.shape[1]), np.float32)
                return
            self._held = following

    def close(self) -> None:
        """Let go of what gives the samples."""
        self._chunks.close()


class Reel:
    """A context manager that gives frames and sounds of shots, each of which lies behind the one before.

    Of any shot the frames or a sound may be left out. Raises BadInput for what cannot be decoded.
    """

    def __init__(self, footage: Footage, bucket: Bucket, first: int, stop: int) -> None:
        """`first`, `stop`: frames that hold all shots."""
        source = open_source(footage.path)
        self.rate = min((rate for rate in AAC_RATES if rate >= source.sample_rate), default=AAC_RATES[-1])
        self.layout = source.layout  # ffmpeg's name of the speakers
        self._frames = read_footage(footage, bucket, first, stop)
        self._next = first
        self._speech = Tape(read_sound(footage.path, sample_rate=SPEECH_RATE, layout="mono"), 1)
        sound = read_sound(footage.path, sample_rate=self.rate, layout=self.layout)
        self._sound = Tape(sound, av.AudioLayout(self.layout).nb_channels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._speech.close()
        self._sound.close()

    def frames(self, shot: Shot) -> Iterator[np.ndarray]:
        """The frames of a shot, each uint8 RGB [H, W, 3] of the bucket's size."""
        deque(islice(self._frames, shot.first - self._next), maxlen=0)
        self._next = shot.first
        for frame_HWC in islice(self._frames, shot.num_frames):
            self._next += 1
            yield frame_HWC

    def speech(self, shot: Shot) -> Iterator[np.ndarray]:
        """Its sound at 16 kHz, mono, at its own loudness: float32 [n, 1], as long as its frames."""
        return _part(self._speech, shot, SPEECH_RATE)

    def sound(self, shot: Shot) -> Iterator[np.ndarray]:
        """Its sound at `rate`, with all its channels: float32 [n, channels], as long as its frames."""
        return _part(self._sound, shot, self.rate)


def _part(tape: Tape, shot: Shot, rate: int) -> Iterator[np.ndarray]:
    return tape.part(round(shot.first * rate / FPS), round(shot.stop * rate / FPS))
