"""The same speech-like sound in every kind of file, and where it is found there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from stableavatar.units import SPEECH_RATE

SECONDS = 3.0
OVERSAMPLING = 16  # of a correlation: it tells the place to 4 microseconds


def signal(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """Tones from 200 to 3,000 Hz that come and go: the same sound at any rate, found in one place only. float32 [n]."""
    random = np.random.default_rng(0)
    times = np.arange(round(seconds * rate)) / rate
    total = np.zeros(len(times))
    for hertz, phase in zip(random.uniform(200, 3000, 50), random.uniform(0, 2 * np.pi, 50), strict=True):
        total += np.sin(2 * np.pi * hertz * times + phase) * (1 + np.sin(2 * np.pi * hertz / 500 * times + phase))
    return (total / 60).astype(np.float32)


def write_samples(path: Path, samples: np.ndarray, rate: int) -> str:
    """A WAV of 32 bit floats, one channel; or what the suffix says."""
    raw = path.with_name("raw")
    raw.write_bytes(samples.astype("<f4").tobytes())
    stream = ffmpeg.input(str(raw), format="f32le", ar=rate, ch_layout="mono")
    codec = {"acodec": "pcm_f32le"} if path.suffix == ".wav" else {}
    _run(stream.output(str(path), loglevel="error", **codec))
    return str(path)


def lag_s(found: np.ndarray, expected: np.ndarray, rate: int = SPEECH_RATE) -> float:
    """Seconds by which `found` comes later than `expected`, by cross-correlation."""
    size = 1 << (len(found) + len(expected)).bit_length()
    cross = np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size))
    peak = int(np.fft.irfft(cross, size * OVERSAMPLING).argmax())
    peak -= size * OVERSAMPLING if peak > size * OVERSAMPLING // 2 else 0
    return peak / OVERSAMPLING / rate


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of file. `offset_s`: of the sound after the picture; None: there is no picture."""

    name: str  # of the file; its suffix is the container
    codec: str
    rate: int = 48_000
    layout: str = "stereo"
    offset_s: float | None = None
    cut_s: float = 0.0  # copied from here on, without encoding again: the container says what not to play
    most_ms: float = 0.25  # by which the sound may be off
    most_length_ms: float = 0.25  # and its end
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def begins_s(self) -> float:
        """Where the sound begins on the time line of the file."""
        return (self.offset_s or 0.0) - self.cut_s


# Matroska counts in ms. Where a container does not say what an encoder added at the end, or as raw streams at the
# start, it is heard as silence: that is all that is off in the rest.
LOOSE = {"strict": "experimental"}
CASES = (
    Case(name="u8.wav", codec="pcm_u8", rate=8_000, layout="mono"),
    Case(name="s16.wav", codec="pcm_s16le", rate=44_100),
    Case(name="s24.wav", codec="pcm_s24le", rate=48_000, layout="5.1"),
    Case(name="s32.wav", codec="pcm_s32le", rate=96_000, layout="mono"),
    Case(name="f32.wav", codec="pcm_f32le", rate=192_000),
    Case(name="f64.wav", codec="pcm_f64le", rate=37_800, layout="mono"),
    Case(name="seven.wav", codec="pcm_s16le", rate=48_000, layout="7.1"),
    Case(name="alaw.wav", codec="pcm_alaw", rate=8_000, layout="mono"),
    Case(name="s16.aiff", codec="pcm_s16be", rate=22_050, layout="mono"),
    Case(name="s16.flac", codec="flac", rate=44_100),
    Case(name="six.flac", codec="flac", rate=96_000, layout="5.1"),
    Case(name="alac.m4a", codec="alac", rate=48_000),
    Case(name="lame.mp3", codec="libmp3lame", rate=44_100),
    Case(name="low.mp3", codec="libmp3lame", rate=16_000, layout="mono"),
    Case(name="aac.m4a", codec="aac", rate=44_100),
    Case(name="low.m4a", codec="aac", rate=8_000, layout="mono"),
    Case(name="six.m4a", codec="aac", rate=48_000, layout="5.1"),
    Case(name="cut.m4a", codec="aac", rate=48_000, cut_s=0.513),
    Case(name="vorbis.ogg", codec="libvorbis", rate=44_100),
    Case(name="opus.opus", codec="libopus", rate=48_000),
    Case(name="low.opus", codec="libopus", rate=16_000, layout="mono"),
    Case(name="six.opus", codec="libopus", rate=48_000, layout="5.1", options={"mapping_family": 1}),
    Case(name="opus.webm", codec="libopus", rate=48_000, layout="mono"),
    Case(name="vorbis.webm", codec="libvorbis", rate=48_000, offset_s=0.25),
    Case(name="opus.mkv", codec="libopus", rate=48_000, offset_s=0.5, most_ms=1.01, most_length_ms=1.01),
    Case(name="aac.mkv", codec="aac", rate=48_000, offset_s=0.5, most_length_ms=8.1),
    Case(name="pcm.mkv", codec="pcm_s16le", rate=44_100, offset_s=0.0),
    Case(name="aac.mp4", codec="aac", rate=44_100, offset_s=0.0),
    Case(name="late.mp4", codec="aac", rate=48_000, offset_s=0.5, most_length_ms=8.1),
    Case(name="opus.mp4", codec="libopus", rate=48_000, offset_s=0.3, most_length_ms=13.6),
    Case(name="pcm.mov", codec="pcm_s24le", rate=48_000, offset_s=0.3),
    Case(name="mp2.ts", codec="mp2", rate=48_000, offset_s=0.5, most_length_ms=10.1),
    Case(name="aac.ts", codec="aac", rate=48_000, offset_s=0.5, most_length_ms=8.1),
    Case(name="ac3.ac3", codec="ac3", rate=48_000, layout="5.1", most_ms=5.4, most_length_ms=8.1),
    Case(name="pcm.avi", codec="pcm_s16le", rate=44_100, offset_s=0.0),
    Case(name="aac.flv", codec="aac", rate=44_100, offset_s=0.2, most_length_ms=19),
    Case(name="raw.aac", codec="aac", rate=48_000, most_ms=21.4, most_length_ms=29.4),
)


def write_sound(case: Case, folder: Path) -> str:
    """The sound as a file of that kind."""
    raw, wav, path = folder / "raw", folder / "source.wav", folder / case.name
    num_channels = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[case.layout]
    raw.write_bytes(np.repeat(signal(case.rate)[:, None] / 2, num_channels, axis=1).astype("<f4").tobytes())
    raw_input = ffmpeg.input(str(raw), format="f32le", ar=case.rate, ch_layout=case.layout)
    _run(raw_input.output(str(wav), acodec="pcm_f32le", loglevel="error"))
    options = {"acodec": case.codec, "ar": case.rate, "loglevel": "error", **LOOSE, **case.options}
    delay = {"itsoffset": case.offset_s} if case.offset_s else {}
    inputs = [ffmpeg.input(str(wav), **delay)]
    if case.offset_s is not None:
        inputs.append(ffmpeg.input("testsrc=duration=4:size=64x64:rate=25", format="lavfi"))
    _run(ffmpeg.output(*inputs, str(path), **options))
    if case.cut_s:
        whole = path.rename(folder / f"whole_{case.name}")
        _run(ffmpeg.input(str(whole), ss=case.cut_s).output(str(path), codec="copy", loglevel="error"))
    return str(path)


def _run(stream: Any) -> None:
    stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)


def lag_samples(a: np.ndarray, b: np.ndarray) -> int:
    """How much later the same sound comes in `a` than in `b`."""
    size = 1 << (len(a) + len(b)).bit_length()
    peak = int(np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size).argmax())
    return peak - size if peak > size // 2 else peak
