"""A sound stream of a file: which of them, what it is, and where it lies on the time line of its medium."""

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av

from stableavatar.errors import BadInput
from stableavatar.ffmpeg import PROBE_INPUT, SOUND_CODECS, FfmpegError, local
from stableavatar.languages import to_iso639_2
from stableavatar.text import one_line

MAX_CHANNELS = 8  # 7.1, the most that AAC carries with named speakers
# The speakers of up to eight channels that ffmpeg's AAC encoder knows. It refuses others; a mix would leave some out.
AAC_LAYOUTS = {
    "mono", "stereo", "2.1", "3.0", "3.0(back)", "3.1", "4.0", "quad",
    "quad(side)", "4.1", "5.0", "5.0(side)", "5.1", "5.1(side)", "6.0", "6.0(front)",
    "hexagonal", "6.1", "6.1(back)", "6.1(front)", "7.0", "7.0(front)", "7.1", "7.1(wide)",
    "7.1(wide-side)", "5.1.2(back)", "octagonal",
}  # fmt: skip
MIN_RATE, MAX_RATE = 2_000, 768_000  # samples per second; others come from damaged or forged headers
MAX_LISTED = 20  # streams that an error names

# These, WAV and Matroska carry the true length of the sound; a shorter sound means that the end was lost.
_EXACT_FORMATS = {"flac", "mov", "aiff"}
_UNKNOWN_BYTES = 0x7FFF_0000  # and more: what programs write into a WAV whose size they do not know yet
REMEDY = "Give a whole sound file (WAV, FLAC, MP3, M4A, Ogg) or a video with sound."


@dataclass(frozen=True, kw_only=True)
class Source:
    """One sound stream of a file."""

    path: str
    index: int  # of the stream in the file
    number: int  # of the stream among the sounds of the file
    sample_rate: int
    channels: int
    layout: str  # which speakers, in ffmpeg's words
    codec: str
    zero_s: float  # the medium's time zero, by the file's own clock
    delay: int  # samples from the medium's time zero to the first of this stream
    declared_s: float | None  # end of the stream by the file's own word, where that can be trusted


def open_source(path: str, stream: str = "") -> Source:
    """The sound stream of a file, by its number among the sounds or its language; empty is the first.

    Raises BadInput: no such file, not media, no such stream, or one that cannot be read.
    """
    if not os.path.isfile(path):
        raise BadInput(f"{path}: no such file. Correct the path of the sound.")
    if not os.path.getsize(path):
        raise BadInput(f"{path} is empty (0 bytes). {REMEDY}")
    with blaming(path), av.open(local(path), options=PROBE_INPUT, metadata_errors="replace") as container:
        return _probe(path, container, stream)


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """What the decoder cannot read is the fault of the file."""
    try:
        yield
    except (av.FFmpegError, FfmpegError) as error:
        # "Invalid argument" is how a format that is not on the list is refused.
        refused = isinstance(error, av.ArgumentError)
        message = "no sound or video format" if refused else one_line(getattr(error, "strerror", None) or str(error))
        raise BadInput(f"{path} is not sound that can be decoded ({message}). {REMEDY}") from error


def _probe(path: str, container: Any, wanted: str) -> Source:
    stream = _choose(path, container.streams.audio, wanted.strip())
    if stream.channels > MAX_CHANNELS:
        raise BadInput(f"{path} has {stream.channels} audio channels. Mix it down to at most {MAX_CHANNELS} (7.1).")
    if stream.codec_context.name not in SOUND_CODECS.split(","):
        raise BadInput(f"{path} holds {one_line(stream.codec_context.name)} sound, which is not read. {REMEDY}")
    first = next(container.decode(stream), None)
    if first is None:
        raise BadInput(f"{path} holds no sound: its audio stream is empty. {REMEDY}")
    if not MIN_RATE <= first.sample_rate <= MAX_RATE:
        raise BadInput(
            f"{path} has a sample rate of {first.sample_rate} Hz; from {MIN_RATE} to {MAX_RATE} can be read. {REMEDY}"
        )
    sound_s = first.time or 0.0
    zero_s = min([sound_s, *_starts(container, stream, sound_s), *_own_zero(path, container)])
    return Source(
        path=path,
        index=stream.index,
        number=[sound.index for sound in container.streams.audio].index(stream.index),
        sample_rate=first.sample_rate,
        channels=first.layout.nb_channels,
        layout=_layout(path, first.layout),
        codec=stream.codec_context.name,
        zero_s=zero_s,
        delay=round((sound_s - zero_s) * first.sample_rate),
        declared_s=_declared_s(path, container, stream, sound_s, zero_s),
    )


def _choose(path: str, streams: Any, wanted: str) -> Any:
    if not streams:
        raise BadInput(f"{path} has no audio stream. Give a file with sound or a separate sound file.")
    if wanted.isdecimal() and int(wanted) < len(streams):
        return streams[int(wanted)]
    found = [stream for stream in streams if not wanted or _is_language(wanted, stream)]
    if found:
        return found[0]
    listed = [_described(number, stream) for number, stream in enumerate(streams[:MAX_LISTED])]
    raise BadInput(
        f"{path} has no audio stream {one_line(wanted)!r}. There is {'; '.join(listed)}. "
        "Name one by its number or its language in audio_stream."
    )


def _is_language(wanted: str, stream: Any) -> bool:
    spoken = stream.language or ""
    try:
        return wanted.lower() == spoken.lower() or to_iso639_2(wanted) == to_iso639_2(spoken)
    except ValueError:
        return False


def _described(number: int, stream: Any) -> str:
    context = stream.codec_context
    language = one_line(stream.language or "language unknown")
    return f"{number}: {language}, {one_line(context.name)}, {stream.channels} channels"


def _layout(path: str, layout: Any) -> str:
    """A name that ffmpeg reads; where a file does not say which speakers, the usual ones for so many channels.

    Raises BadInput for speakers that AAC does not carry.
    """
    if layout.name.endswith(" channels"):
        return f"{layout.nb_channels}c"
    if layout.name in ("downmix", "binaural"):  # two channels, made for two ears
        return "stereo"
    if layout.name not in AAC_LAYOUTS:
        raise BadInput(f"{path} has the speakers {one_line(layout.name)}, which AAC cannot carry. Mix it down to 7.1.")
    return layout.name


def _starts(container: Any, stream: Any, sound_s: float) -> list[float]:
    """Seconds at which the films and the other sounds begin. A cover picture is not a film.

    The other sounds are taken to hold as much that nobody hears before their start as `stream`, heard from `sound_s`.
    """
    films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    starts = {s.index: float(s.start_time * s.time_base) for s in container.streams if s.start_time is not None}
    unheard_s = sound_s - starts.get(stream.index, sound_s)
    others = [s for s in container.streams.audio if s.index != stream.index]
    return [starts[s.index] for s in films if s.index in starts] + [
        starts[s.index] + unheard_s for s in others if s.index in starts
    ]


def _own_zero(path: str, container: Any) -> list[float]:
    """The zero of an mp4's own time line, where an edit list may let everything start later.

    Pieces of a live film count from when that began, so of those it is not meant.
    """
    if "mov" not in container.format.name.split(","):
        return []
    with open(path, "rb") as file:
        position, kind = 0, b"ftyp"
        while kind != b"moof":
            file.seek(position)
            header = file.read(16)
            if len(header) < 8:
                return [0.0]
            size, kind = struct.unpack_from(">I4s", header)
            if size == 1 and len(header) == 16:  # then the true size follows
                (size,) = struct.unpack_from(">Q", header, 8)
            if size < 8:  # to the end of the file
                return [0.0]
            position += size
    return []


def _declared_s(path: str, container: Any, stream: Any, sound_s: float, zero_s: float) -> float | None:
    formats = set(container.format.name.split(","))
    if "wav" in formats:  # ffmpeg believes the size of the file, not the header
        return _declared_in_wav(path)
    if "matroska" in formats:
        end_s = _clock_s(stream.metadata.get("DURATION", ""))
        return end_s - zero_s if end_s else None
    exact = _EXACT_FORMATS & formats
    return sound_s - zero_s + float(stream.duration * stream.time_base) if exact and stream.duration else None


def _clock_s(text: str) -> float | None:
    """Seconds of h:m:s. None for what is no such time: anyone may write what they like into a tag."""
    found = re.fullmatch(r"(\d{1,6}):(\d{1,2}):(\d{1,2}(?:\.\d*)?)", text.strip(), re.ASCII)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


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
