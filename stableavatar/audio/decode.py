"""Sound of any file: how long it is, as the speech the model hears, and as the sound track of the video."""

import os
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import ffmpeg
import numpy as np

from stableavatar.audio.span import Span
from stableavatar.errors import BadInput
from stableavatar.ffmpeg import PROBE_INPUT, SOUND_CODECS, SOUND_INPUT, FfmpegError, local, read, run
from stableavatar.limits import Limits
from stableavatar.text import one_line
from stableavatar.units import SPEECH_RATE

MAX_CHANNELS = 8  # 7.1, the most that AAC carries with named speakers
MIN_RATE, MAX_RATE = 2_000, 768_000  # samples per second; others come from damaged or forged headers
AAC_BITS_PER_SAMPLE = 2  # of each channel: 96 kb/s at 48 kHz, transparent for speech and music
AAC_MAX_RATE = 96_000  # samples per second

# These, WAV and Matroska carry the true length of the sound; a shorter sound means that the end was lost.
_EXACT_FORMATS = {"flac", "mov", "aiff"}
_UNKNOWN_BYTES = 0x7FFF_0000  # and more: what programs write into a WAV whose size they do not know yet
_LOST_S = 0.25  # seconds that may be missing at the end: encoder padding, never a word
_PAST_LIMIT_S = 0.01  # seconds that are decoded to see that a sound is too long
_RAISE = "raise --max-sound-s"
_REMEDY = "Give a whole sound file (WAV, FLAC, MP3, M4A, Ogg) or a video with sound."


@dataclass(frozen=True, kw_only=True)
class SoundInfo:
    """What a sound is. `duration_s`: seconds that exist of the asked span, by decoding."""

    duration_s: float
    sample_rate: int
    channels: int
    codec: str


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The sound stream of a file, and where it lies on the time line of the medium."""

    path: str
    stream: int  # index in the file
    sample_rate: int
    channels: int
    codec: str
    delay: int  # samples from the medium's time zero to the first of this stream
    declared_s: float | None  # end of the stream by the file's own word, where that can be trusted


def measure_sound(path: str, span: Span = Span(), *, limits: Limits = Limits()) -> SoundInfo:
    """Decodes the span of the medium and tells its true length; what lies past the end is cut.

    Decoding stops where the limit is passed, whatever length the header promises.
    Raises BadInput: no such file, not media, no audio stream, nothing in the span, broken off before its end, too long.
    """
    start_s, end_s = span.start_s, span.end_s
    source = _open(path)
    if max(start_s, source.delay / source.sample_rate) >= limits.max_sound_s:
        raise BadInput(f"{path}: what is asked for begins after {_limit(limits)}. Cut the sound, or {_RAISE}.")
    stop_s = limits.max_sound_s + _PAST_LIMIT_S  # there it is known to be too long
    with _blaming(path):
        sound = _span(source, start_s, stop_s if end_s is None else min(end_s, stop_s)).filter(
            "aformat", sample_fmts="flt", channel_layouts="mono"
        )
        num_samples = 0
        for chunk in read(sound.output("pipe:", format="f32le", acodec="pcm_f32le")):
            samples = np.frombuffer(chunk, dtype="<f4")
            _check_finite(path, samples)
            num_samples += len(samples)
    duration_s = num_samples / source.sample_rate
    if start_s + duration_s > limits.max_sound_s:
        raise BadInput(f"{path} is longer than {_limit(limits)}. Name a span with end_s, cut the sound, or {_RAISE}.")
    _check_span(source, start_s, end_s, duration_s)
    return SoundInfo(
        duration_s=duration_s, sample_rate=source.sample_rate, channels=source.channels, codec=source.codec
    )


def decode_speech(path: str, span: Span = Span()) -> np.ndarray:
    """The span of the medium as the model hears it: float32 [n], 16 kHz mono in [-1, 1].

    A sound that starts later than its video is preceded by silence. Raises BadInput as `measure_sound`, and for NaN.
    """
    start_s, end_s = span.start_s, span.end_s
    source = _open(path)
    samples = bytearray()
    with _blaming(path):
        # Mixing before resampling: one channel to filter. rematrix_maxval keeps a mix of full channels within [-1, 1].
        sound = _span(source, start_s, end_s).filter("aresample", ochl="mono", osf="fltp", rematrix_maxval=1)
        sound = sound.filter("aresample", SPEECH_RATE, resampler="soxr", precision=28)
        for chunk in read(sound.output("pipe:", format="f32le", acodec="pcm_f32le")):
            samples += chunk
    speech = np.frombuffer(samples, dtype="<f4")
    _check_span(source, start_s, end_s, len(speech) / SPEECH_RATE)
    _check_finite(path, speech)
    return np.clip(speech, -1.0, 1.0, out=speech)


def read_stereo(path: str, start: int = 0, *, stream: str = "", sample_rate: int) -> Generator[np.ndarray]:
    """The sound from sample `start` of the medium's time line to its end: pieces of float32 [n, 2].

    A mono sound is on both sides, at its own level. Raises BadInput as `measure_sound`.
    """
    source = _open(path)
    with _blaming(path):
        layout = "mono" if source.channels == 1 else "stereo"  # ffmpeg itself would make a mono sound 3 dB softer
        sound = _span(source, 0.0, None).filter("aresample", ochl=layout, osf="fltp", rematrix_maxval=1)
        sound = sound.filter("aresample", sample_rate, resampler="soxr", precision=28).filter(
            "atrim", start_sample=start
        )
        for chunk in read(sound.output("pipe:", format="f32le", acodec="pcm_f32le")):
            samples = np.frombuffer(chunk, dtype="<f4").reshape(-1, 1 if layout == "mono" else 2)
            _check_finite(path, samples)
            yield np.broadcast_to(samples, (len(samples), 2))


def encode_sound(path: str, out_path: str, span: Span = Span(), *, duration_s: float) -> None:
    """Writes the original sound from the span's start on as AAC in m4a: own rate and channels, `duration_s` exactly.

    Cut or padded with silence. The same sound gives the same bytes. Raises BadInput as `measure_sound`.
    """
    source = _open(path)
    rate = min(source.sample_rate, AAC_MAX_RATE)
    num_samples = round(duration_s * rate)
    sound = _span(source, span.start_s, None).filter("aresample", rate, resampler="soxr", precision=28)
    sound = sound.filter("apad", whole_len=num_samples).filter("atrim", end_sample=num_samples)
    bit_rate = AAC_BITS_PER_SAMPLE * rate * source.channels
    output = sound.output(
        local(out_path), format="ipod", acodec="aac", audio_bitrate=bit_rate, map_metadata=-1, fflags="+bitexact",
        **{"flags:a": "+bitexact"},
    )  # fmt: skip
    with _blaming(path):
        run(output.global_args("-cpuflags", "0"))  # vector units round differently: without them every node agrees


def _limit(limits: Limits) -> str:
    return f"the limit of {limits.max_sound_s:g} s"


def _open(path: str) -> _Source:
    if not os.path.isfile(path):
        raise BadInput(f"{path}: no such file. Correct the path of the sound.")
    if not os.path.getsize(path):
        raise BadInput(f"{path} is empty (0 bytes). {_REMEDY}")
    with _blaming(path), av.open(local(path), options=PROBE_INPUT, metadata_errors="replace") as container:
        return _probe(path, container)


def _probe(path: str, container: Any) -> _Source:
    stream = container.streams.best("audio")
    if stream is None:
        raise BadInput(f"{path} has no audio stream. Give a file with sound or a separate sound file.")
    if stream.channels > MAX_CHANNELS:
        raise BadInput(f"{path} has {stream.channels} audio channels. Mix it down to at most {MAX_CHANNELS} (7.1).")
    if stream.codec_context.name not in SOUND_CODECS.split(","):
        raise BadInput(f"{path} holds {one_line(stream.codec_context.name)} sound, which is not read. {_REMEDY}")
    first = next(container.decode(stream), None)
    if first is None:
        raise BadInput(f"{path} holds no sound: its audio stream is empty. {_REMEDY}")
    if not MIN_RATE <= first.sample_rate <= MAX_RATE:
        raise BadInput(
            f"{path} has a sample rate of {first.sample_rate} Hz; from {MIN_RATE} to {MAX_RATE} can be read. {_REMEDY}"
        )
    sound_s = first.time or 0.0
    zero_s = min([sound_s, *_film_starts(container)])
    return _Source(
        path=path,
        stream=stream.index,
        sample_rate=first.sample_rate,
        channels=stream.channels,
        codec=stream.codec_context.name,
        delay=round((sound_s - zero_s) * first.sample_rate),
        declared_s=_declared_s(path, container, stream, sound_s - zero_s),
    )


def _film_starts(container: Any) -> list[float]:
    """Seconds at which the video streams begin. A cover picture is not a video."""
    films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    return [float(s.start_time * s.time_base) for s in films if s.start_time is not None]


def _declared_s(path: str, container: Any, stream: Any, delay_s: float) -> float | None:
    formats = set(container.format.name.split(","))
    if "wav" in formats:  # ffmpeg believes the size of the file, not the header
        return _declared_in_wav(path)
    if "matroska" in formats:
        hours, minutes, seconds = stream.metadata.get("DURATION", "0:0:0").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) or None
    exact = _EXACT_FORMATS & formats
    return delay_s + float(stream.duration * stream.time_base) if exact and stream.duration else None


def _declared_in_wav(path: str) -> float | None:
    """Seconds by the sizes in a RIFF header. None if there are none, as when a program wrote it to a pipe."""
    bytes_per_second, position = 0, 12
    with open(path, "rb") as file:
        while True:
            file.seek(position)
            header = file.read(20)  # of a chunk, and the first words of its content
            if len(header) < 8:
                return None
            kind, size = struct.unpack_from("<4sI", header)
            if kind == b"fmt " and len(header) == 20:
                (bytes_per_second,) = struct.unpack_from("<I", header, 16)
            if kind == b"data":
                return size / bytes_per_second if 0 < size < _UNKNOWN_BYTES and bytes_per_second else None
            position += 8 + size + size % 2


def _span(source: _Source, start_s: float, end_s: float | None) -> Any:
    """The samples of [start_s, end_s) at the source's own rate and channels, as an ffmpeg-python stream.

    The stream starts at its own zero, gaps in it become silence, then it moves to its place on the medium's time line:
    ffmpeg's own zero is where the first packet starts, and that may hold samples nobody hears.
    """
    sound = ffmpeg.input(local(source.path), **SOUND_INPUT)[str(source.stream)].filter("asetpts", "PTS-STARTPTS")
    sound = sound.filter("aresample", source.sample_rate, first_pts=0, **{"async": 1})
    if source.delay:
        sound = sound.filter("adelay", f"{source.delay}S", all=1)
    bounds = {"start_sample": round(start_s * source.sample_rate)}
    if end_s is not None:
        bounds["end_sample"] = round(end_s * source.sample_rate)
    return sound.filter("atrim", **bounds).filter("asetpts", "PTS-STARTPTS")


def _check_finite(path: str, samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise BadInput(f"{path} holds samples that are not numbers (NaN or infinite). Export the sound again.")


def _check_span(source: _Source, start_s: float, end_s: float | None, found_s: float) -> None:
    if source.declared_s is not None:
        wanted_s = source.declared_s if end_s is None else min(end_s, source.declared_s)
        if start_s < wanted_s and wanted_s - start_s - found_s > _LOST_S:
            raise BadInput(
                f"{source.path} breaks off at {start_s + found_s:.2f} s; by its own header it is "
                f"{source.declared_s:.2f} s long. {_REMEDY}"
            )
    if found_s:
        return
    if start_s:
        raise BadInput(f"{source.path} has no sound from start_s = {start_s:g} s on: it ends earlier. Lower start_s.")
    raise BadInput(f"{source.path} holds no sound: it is 0 s long. {_REMEDY}")


@contextmanager
def _blaming(path: str) -> Iterator[None]:
    """What the decoder cannot read is the fault of the file."""
    try:
        yield
    except (av.FFmpegError, FfmpegError) as error:
        # "Invalid argument" is how a format that is not on the list is refused.
        refused = isinstance(error, av.ArgumentError)
        message = "no sound or video format" if refused else one_line(getattr(error, "strerror", None) or str(error))
        raise BadInput(f"{path} is not sound that can be decoded ({message}). {_REMEDY}") from error
