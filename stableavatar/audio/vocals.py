"""The voice out of a sound with music or noise, in blocks of a fixed grid: in any order, at the memory of one block.

The network hears chunks that overlap, a step apart. Where each lies depends on the medium's time line alone, so a
block is the same whether it is separated by itself or with all others.

Shapes: S samples at 44.1 kHz, C channels (2), n samples at 16 kHz.
"""

from collections.abc import Generator, Iterator
from contextlib import closing

import numpy as np
import torch
from scipy.signal import firwin, resample_poly

from stableavatar.audio.decode import read_sound
from stableavatar.audio.separator import HOP, SeparatorFile, load_mdx

VOCALS_RATE = 44_100  # samples per second that every MDX-Net is made for
UP, DOWN = 160, 441  # 16 kHz of 44.1 kHz: blocks hold whole multiples, so that they meet without a gap
ABOUT_BLOCK_S = 30.0
_SHARE = 0.75  # of a chunk, by which the next one comes later
_MARGIN = DOWN  # samples beside a block that its resampling hears
_LOW_PASS = firwin(64 * DOWN + 1, 1 / DOWN, window=("kaiser", 9.0))  # 88 samples at 44.1 kHz to either side


class Sound:
    """The sound of a medium as float32 [S, C] at 44.1 kHz from its time zero on, read forwards."""

    def __init__(self, path: str, stream: str = "") -> None:
        self._path = path
        self._stream = stream
        self.num_samples: int | None = None  # of the whole sound, once its end was seen
        self._start = 0  # of what is held, which is what was decoded and may be asked for once more
        self._held = np.zeros((0, 2), np.float32)
        self._pieces: Generator[np.ndarray] | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """The samples [start, stop); silence before time zero and after the end. Going back costs decoding again.

        Raises BadInput if the medium cannot be decoded.
        """
        if self._pieces is None or max(0, start) < self._start:
            self._open_at(max(0, start))
        assert self._pieces is not None
        while self._start + len(self._held) < stop and (piece := next(self._pieces, None)) is not None:
            self._held = np.concatenate([self._held, piece])
            self._forget(start)
        if self._start + len(self._held) < stop:
            self.num_samples = self._start + len(self._held)
        self._forget(start)
        found = self._held[: max(0, stop - self._start)]
        before = min(max(0, self._start - start), stop - start)
        return np.pad(found, ((before, stop - start - before - len(found)), (0, 0)))

    def close(self) -> None:
        """Let go of the decoder."""
        if self._pieces is not None:
            self._pieces.close()

    def _open_at(self, start: int) -> None:
        self.close()
        self._start, self._held = start, self._held[:0]
        self._pieces = read_sound(self._path, sample_rate=VOCALS_RATE, start=self._start, stream=self._stream)

    def _forget(self, start: int) -> None:
        """Let go of what comes before `start`."""
        gone = min(max(0, start - self._start), len(self._held))
        self._held = self._held[gone:]
        self._start += gone


class VocalSeparator:
    """An MDX-Net, loaded, and the grid on which it works."""

    def __init__(self, file: SeparatorFile) -> None:
        """Raises WeightsError if the file cannot be loaded."""
        self.file = file
        self._mdx = load_mdx(file)
        self.chunk = HOP * (2 ** file.parameters["mdx_dim_t_set"] - 1)  # samples
        self.step = int(self.chunk * _SHARE) // DOWN * DOWN
        self.num_steps = max(1, round(ABOUT_BLOCK_S * VOCALS_RATE / self.step))  # of a block
        self.block = self.num_steps * self.step  # samples
        self.overlap = self.chunk - self.step
        window = np.hanning(self.chunk).astype(np.float32)
        self.fade_in_SC = (window[: self.overlap] / (window[: self.overlap] + window[self.step :]))[:, None]

    @property
    def block_s(self) -> float:
        """Seconds of a block."""
        return self.block / VOCALS_RATE

    def separate(self, mix_SC: np.ndarray) -> np.ndarray:
        """The voice in one chunk, at the level that it has there. Silence stays silence."""
        if not mix_SC.any():
            return np.zeros_like(mix_SC)
        # Not the library's own loop over chunks: it scales each sound by its peak, and blocks would jump.
        with torch.no_grad():
            vocals_CS = self._mdx.run_model(torch.from_numpy(np.ascontiguousarray(mix_SC.T))[None])[0]
        return np.ascontiguousarray(vocals_CS.T, dtype=np.float32)


class Vocals:
    """The voice in one sound. Close it at the end."""

    def __init__(self, separator: VocalSeparator, path: str, stream: str = "") -> None:
        self._separator = separator
        self._sound = Sound(path, stream)
        self._lead = separator.overlap + _MARGIN  # samples by which chunk 0 begins before time zero
        self._last: tuple[int, np.ndarray] | None = None  # chunk that the next block begins with

    def close(self) -> None:
        """Let go of the decoder."""
        self._sound.close()

    def whole(self) -> Iterator[np.ndarray]:
        """All of it, from time zero to the sound's end: pieces of float32 [S, C] at 44.1 kHz."""
        start = -self._lead
        for piece_SC in self._joined(0, None):
            end = self._sound.num_samples
            num_left = len(piece_SC) if end is None else max(0, end - start)
            yield piece_SC[max(0, -start) : num_left]
            start += len(piece_SC)

    def block(self, number: int) -> np.ndarray:
        """One block as the model hears it: float32 [n], 16 kHz mono. The last is shorter, those after it are empty."""
        separator = self._separator
        first = number * separator.num_steps
        pieces = list(self._joined(first, first + separator.num_steps))
        begin = separator.overlap  # of the block's margin in the pieces: they start a lead before the block
        mono_S = np.concatenate(pieces)[begin : begin + separator.block + 2 * _MARGIN].mean(axis=1)
        speech_n = resample_poly(mono_S, UP, DOWN, window=_LOW_PASS)[UP:-UP]
        if self._sound.num_samples is not None:
            left = max(0, self._sound.num_samples - number * separator.block)
            speech_n = speech_n[: -(-left * UP // DOWN)]
        return speech_n.astype(np.float32)

    def _joined(self, first: int, last: int | None) -> Iterator[np.ndarray]:
        """The chunks from `first` to `last` or to the end, each faded into the next: pieces of [step, C].

        Each begins where its chunk does, a lead before that chunk's step of the time line.
        """
        separator, number, tail_SC = self._separator, first, None
        while last is None or number <= last:
            if self._is_past(number) and last is None:
                return
            chunk_SC = self._chunk(number)
            piece_SC = chunk_SC[: separator.step].copy()
            if tail_SC is not None:
                piece_SC[: separator.overlap] *= separator.fade_in_SC
                piece_SC[: separator.overlap] += tail_SC * (1 - separator.fade_in_SC)
            tail_SC = chunk_SC[separator.step :]
            yield piece_SC
            number += 1

    def _is_past(self, number: int) -> bool:
        end = self._sound.num_samples
        return end is not None and number * self._separator.step - self._lead >= end

    def _chunk(self, number: int) -> np.ndarray:
        if self._last is None or self._last[0] != number:
            start = number * self._separator.step - self._lead
            mix_SC = self._sound.read(start, start + self._separator.chunk)
            self._last = number, self._separator.separate(mix_SC)
        return self._last[1]


def vocals_of(separator: VocalSeparator, path: str, stream: str = "") -> "closing[Vocals]":
    """The voice in a sound, closed at the end of the `with`."""
    return closing(Vocals(separator, path, stream))
