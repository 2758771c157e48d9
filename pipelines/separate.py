"""Only the voice moves the lips: the speech of rows whose sound also holds music or noise, without those.

A sound is separated in blocks, each once for each machine, however many rows use it.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import ffmpeg
import numpy as np
import soundfile

from pipelines import cache, inputs, scratch
from pipelines.correct import corrected_speech
from pipelines.extract import one_file
from pipelines.inputs import check_unchanged
from pipelines.stage import Row, Stage
from stableavatar.audio.decode import decode_speech
from stableavatar.audio.separator import read_separator
from stableavatar.audio.span import Span
from stableavatar.audio.vocals import VOCALS_RATE, Vocals, VocalSeparator, vocals_of
from stableavatar.errors import BadInput, StorageError, WeightsError
from stableavatar.ffmpeg import FfmpegError, feed, local
from stableavatar.limits import Limits
from stableavatar.units import SPEECH_RATE

QUIET_S = 1.0  # silence beside blocks out of the middle of a sound: their edges are cuts, not the sound's own ends


class Separate(Stage):
    """In: a prepared row. Out: the same; of a row with `separate_vocals`, `speech` is the voice alone.

    Its sound stays whole, and so do the new sentences of a correction. Rows without pass untouched.
    """

    name = "separate"

    def __init__(
        self,
        separator: str,
        limits: Limits = Limits(),
        load: Callable[[str], VocalSeparator] = lambda path: VocalSeparator(read_separator(path)),
    ) -> None:
        """`separator`: path of the separator's file, loaded by `load` when the first row wants it."""
        self.path = separator
        self.limits = limits
        self.load = load

    def __call__(self, row: Row) -> Row:
        """The row after this stage."""
        return super().__call__(row) if row["separate_vocals"] else row

    def process(self, row: Row) -> Row:
        """Raises BadInput if separator or sound have changed since they were checked, StorageError for a store."""
        if self.separator.file.id != row["separator"]:
            raise BadInput(f"{self.path} has changed since it was checked. Run again.")
        uri = inputs.locate(row["audio"], row["manifest"], self.limits)
        with inputs.fetched(uri, self.limits) as path, scratch.folder() as folder:
            check_unchanged(path, uri, row["audio_sha256"])
            span = inputs.span_of(row)
            voice = os.path.join(folder, "voice.wav")
            there = self._write_voice(voice, path, row, span)
            return {**row, "speech": corrected_speech(row, decode_speech(voice, there), self.limits)}

    @cached_property
    def separator(self) -> VocalSeparator:
        """The separator. Without it, rows that want it fail, and the others go on."""
        try:
            return self.load(self.path)
        except WeightsError as error:
            raise BadInput(f"separate_vocals: {error}") from error

    def _write_voice(self, voice: str, path: str, row: Row, span: Span) -> Span:
        """Write the voice of the blocks that hold the row's span, and tell where in that file the span is."""
        stop_s = span.start_s + row["duration_s"] - span.pad_before_s - span.pad_after_s
        numbers, shift_s = blocks_of(span.start_s, stop_s, self.separator.block_s)
        end_s = None if span.end_s is None else min(span.end_s, stop_s) - shift_s
        quiet = np.zeros(round(QUIET_S * SPEECH_RATE), np.float32)
        key = f"{row['audio_sha256']}\n{span.stream}\n{row['separator']}"
        cache.require_space(len(numbers) * self.separator.block_s * SPEECH_RATE * quiet.itemsize)
        with (
            vocals_of(self.separator, path, span.stream) as vocals,
            scratch.writing(voice, soundfile.SoundFileError),
            soundfile.SoundFile(voice, "w", SPEECH_RATE, 1, "FLOAT", format="WAV") as file,
        ):
            file.write(quiet if numbers.start else quiet[:0])
            for block in kept_blocks(vocals, key, numbers):
                file.write(block)
            file.write(quiet if end_s is not None else quiet[:0])
        return replace(span, start_s=span.start_s - shift_s, end_s=end_s, stream="")


def blocks_of(start_s: float, stop_s: float, block_s: float) -> tuple[range, float]:
    """The blocks that hold [start_s, stop_s), and what to take off a time to get the time in a file of them.

    Where they are not the sound's first, that file begins with some silence.
    """
    first = math.floor(start_s / block_s + 1e-9)
    last = max(first, math.ceil(stop_s / block_s - 1e-9) - 1)
    return range(first, last + 1), first * block_s - (QUIET_S if first else 0.0)


def kept_blocks(vocals: Vocals, key: str, numbers: Iterable[int]) -> Iterator[np.ndarray]:
    """The blocks, float32 [n], out of this machine's cache; those that are not there are separated.

    `key` says whose vocals they are. Raises StorageError.
    """
    for number in numbers:
        name = hashlib.sha256(f"vocals\n{key}\n{number}".encode()).hexdigest()[:32]
        make = partial(_write_block, vocals, number)
        try:
            block = _read_block(name, make)
        except soundfile.SoundFileError:  # the disk lost some of it
            cache.discard(name)
            block = _read_block(name, make)
        yield block


def _read_block(name: str, make: Callable[[str], None]) -> np.ndarray:
    with cache.made(name, make) as path:
        return soundfile.read(path, dtype="float32")[0]


def _write_block(vocals: Vocals, number: int, path: str) -> None:
    block = vocals.block(number)
    container = "FLAC" if len(block) else "WAV"  # FLAC cannot hold nothing, which is what comes after a sound's end
    with scratch.writing(path, soundfile.SoundFileError):
        soundfile.write(path, block, SPEECH_RATE, format=container, subtype="PCM_24")  # quiet voices keep their detail


def separate_file(source: str, out: str, separator: str, *, stream: str = "", force: bool = False) -> None:
    """Write the voice in a sound as WAV: 44.1 kHz, stereo, 16 bits, from the medium's time zero to the sound's end.

    Source and out are paths or URIs; out appears whole or not at all. Raises WeightsError for the separator, BadInput
    for the source or if `out` is there and is not to be replaced, StorageError for a store.
    """
    file = read_separator(separator)  # before a large sound is fetched
    with (
        one_file(source, out, force=force) as (path, voice),
        vocals_of(VocalSeparator(file), path, stream) as vocals,
    ):
        _write_wav(voice, vocals.whole())


def _write_wav(path: str, pieces_SC: Iterable[np.ndarray]) -> None:
    samples = ffmpeg.input("pipe:", format="f32le", ac=2, ar=VOCALS_RATE)
    output = samples.output(local(path), format="wav", acodec="pcm_s16le", rf64="auto")
    try:
        feed(output, pieces_SC)
    except FfmpegError as error:
        raise StorageError(
            f"{path}: the voice could not be written: {error}. Make room on the scratch disk."
        ) from error


def wants_vocals(rows: Iterable[Row]) -> bool:
    """Whether some of these rows, as they come from the check, want their vocals separated."""
    return any(row["status"] == "ready" and row["separate_vocals"] for row in rows)
