"""The sound of a corrected video: only the AAC packets that a correction touches are encoded anew.

AAC codes sound in blocks of 1024 samples that overlap: packet k stands for blocks k - 1 and k, and block k is
heard right when packets k - 1 and k have been decoded. Block 0 lies before the start of the sound.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from stableavatar.audio.decode import decode_sound, decode_speech, loudness_gain, write_aac
from stableavatar.audio.edges import rise_of
from stableavatar.errors import BadInput, StorageError
from stableavatar.ffmpeg import SAFE_INPUT, local
from stableavatar.text import one_line
from stableavatar.units import SPEECH_RATE

BLOCK = 1024  # samples
OVERLAP = 2  # packets that are encoded anew on both sides of those that must be
SEARCH = 8  # more packets on both sides, among which the place is sought where old and new fit together best
WARM_UP = 32  # packets that the encoder makes before those that are used: it begins badly

_REMEDY = "Name a video that this program has made, or render the row without base_video."

NewSentence = tuple[float, float, str]  # start and end in seconds of the video, and the sound file
Packets = Mapping[int, bytes]


def put_in(sound: np.ndarray, part: np.ndarray, span_s: tuple[float, float], rate: int) -> None:
    """Replace a span of `sound`, [n, ...], by `part`, which is cut, or followed by silence, to that length.

    At both ends of the span, within it, one fades into the other; a part that ends earlier fades out there.
    """
    start, stop = (min(len(sound), max(0, round(second * rate))) for second in span_s)
    part = part[: stop - start]
    sound[start:stop] *= 1 - _edges(stop - start, rate, sound.ndim)
    sound[start : start + len(part)] += part * _edges(len(part), rate, sound.ndim)


def _edges(num_samples: int, rate: int, ndim: int) -> np.ndarray:
    """Weights that rise at the start and fall at the end, float32 [num_samples, 1, ...]."""
    weights, rise = np.ones(num_samples, np.float32), rise_of(rate)[:num_samples]
    weights[: len(rise)] *= rise
    weights[num_samples - len(rise) :] *= rise[::-1]
    return weights.reshape(-1, *[1] * (ndim - 1))


def correct_speech(speech: np.ndarray, corrections: Sequence[NewSentence]) -> np.ndarray:
    """What drives the lips, float32 [n] at 16 kHz, with the new sentences in place of the old.

    Raises BadInput if one of them cannot be decoded.
    """
    corrected = speech.copy()
    for start_s, end_s, path in corrections:
        put_in(corrected, decode_speech(path), (start_s, end_s), SPEECH_RATE)
    return corrected


def correct_sound(
    video_path: str, out_path: str, corrections: Sequence[NewSentence], *, loudness: float | None = None
) -> None:
    """Write the sound of a finished video, corrected, to an m4a. What is heard elsewhere stays the same, bit for bit.

    Args:
        video_path: the finished video.
        out_path: m4a of the same length.
        corrections: in their order, without overlaps.
        loudness: LUFS that each new sound is brought to, as `encode_sound` does it; None: its level stays.

    Raises:
        BadInput: a sound cannot be decoded, or the video is none of this program.
        StorageError: a file could not be written.
    """
    track = open_track(video_path)
    replaced: dict[int, bytes] = {}
    for first, last, group in _groups(track, corrections):
        replaced |= _replace(track, first, last, group, loudness)
    try:
        _write(track, replaced, out_path)
    except av.FFmpegError as error:
        raise StorageError(f"{out_path}: {one_line(str(error))}. Make room on the scratch disk.") from error


@dataclass(frozen=True, kw_only=True)
class SoundTrack:
    """The sound of a finished video."""

    path: str
    rate: int
    layout: str  # by ffmpeg's name
    header: bytes
    num_packets: int

    def packets(self, first: int, last: int) -> dict[int, bytes]:
        """The packets from `first` to `last`, as far as there are any."""
        with av.open(local(self.path), options=SAFE_INPUT) as container:
            numbered = enumerate(_packets(container))
            return {number: bytes(packet) for number, packet in numbered if first <= number <= last}

    def decoded(self, packets: Sequence[bytes]) -> np.ndarray:
        """Blocks as they are heard, float32 [len(packets) * BLOCK, channels]. The first of them is not right."""
        context: Any = av.CodecContext.create("aac", "r")
        context.extradata = self.header
        blocks = [frame.to_ndarray() for data in packets for frame in context.decode(av.Packet(data))]
        return np.concatenate(blocks, axis=1).T.astype(np.float32)

    def encoded(self, sound: np.ndarray) -> list[bytes]:
        """Packets of [n, channels]: one more than there are blocks, because the first begins before them."""
        with tempfile.TemporaryDirectory(prefix=".sound-") as folder:
            path = os.path.join(folder, "sound.m4a")
            write_aac([sound], path, rate=self.rate, layout=self.layout)
            with av.open(local(path), options=SAFE_INPUT) as container:
                return [bytes(packet) for packet in _packets(container)]


def open_track(path: str) -> SoundTrack:
    """Look at the packets of a finished video's sound; nothing is decoded.

    Raises:
        BadInput: it is none that this program makes.
    """
    try:
        with av.open(local(path), options=SAFE_INPUT) as container:
            stream = container.streams.best("audio")
            if stream is None or stream.codec_context.name != "aac":
                raise BadInput(f"{path} has no AAC sound. {_REMEDY}")
            context: Any = stream.codec_context
            starts = [(packet.pts, packet.time_base) for packet in _packets(container)]
            track = SoundTrack(
                path=path,
                rate=context.sample_rate,
                layout=context.layout.name,
                header=context.extradata or b"",
                num_packets=len(starts),
            )
    except (OSError, av.FFmpegError) as error:
        raise BadInput(f"{path} cannot be read as a video ({one_line(str(error))}). {_REMEDY}") from error
    if any(pts * base * track.rate != BLOCK * (number - 1) for number, (pts, base) in enumerate(starts)):
        raise BadInput(f"{path} has sound that does not come in blocks of {BLOCK} samples from its start. {_REMEDY}")
    return track


def _packets(container: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(container.streams.best("audio")) if packet.size)


def _groups(track: SoundTrack, corrections: Sequence[NewSentence]) -> list[tuple[int, int, list[NewSentence]]]:
    """First and last packet that must be encoded anew, and the corrections that ask for it; no two groups meet."""
    reach = 2 * SEARCH + 2  # nearer ones could come into each other's way
    groups: list[tuple[int, int, list[NewSentence]]] = []
    for correction in corrections:
        start, stop = (round(second * track.rate) for second in correction[:2])
        first, last = max(0, start // BLOCK - OVERLAP), min(track.num_packets - 1, (stop - 1) // BLOCK + 1 + OVERLAP)
        if groups and groups[-1][1] + reach >= first:
            groups[-1] = (groups[-1][0], last, [*groups[-1][2], correction])
        else:
            groups.append((first, last, [correction]))
    return groups


def _replace(
    track: SoundTrack, first: int, last: int, corrections: Sequence[NewSentence], loudness: float | None
) -> Packets:
    """New packets for at least those from `first` to `last`."""
    begin = max(1, first - SEARCH - WARM_UP)  # the first block that is decoded
    old = track.packets(begin - 1, last + SEARCH + WARM_UP)
    sound = track.decoded(list(old.values()))[BLOCK:]
    origin_s = (begin - 1) * BLOCK / track.rate
    for start_s, end_s, path in corrections:
        part = decode_sound(path, sample_rate=track.rate, layout=track.layout)
        if loudness is not None:
            part = part * np.float32(loudness_gain(path, loudness, track.layout))
        put_in(sound, part, (start_s - origin_s, end_s - origin_s), track.rate)
    new = dict(enumerate(track.encoded(sound), start=begin - 1))
    end = last + 1
    if first:
        first = min(range(max(1, first - SEARCH), first + 1), key=lambda place: _misfit(track, old, new, place, old))
    if end < track.num_packets:
        places = range(end, min(end + SEARCH + 1, track.num_packets))
        end = min(places, key=lambda place: _misfit(track, new, old, place, old))
    return {number: new[number] for number in range(first, end)}


def _misfit(track: SoundTrack, before: Packets, after: Packets, place: int, old: Packets) -> float:
    """How much is heard of a change from `before` to `after` at the packet `place`, where the sound is still the old.

    The halves of two blocks that overlap must have been cut alike, or what each leaves over stays as a click.
    """
    found, wanted = (
        track.decoded([one[place - 1], other[place]])[BLOCK:] for one, other in ((before, after), (old, old))
    )
    return float(np.square(found - wanted).sum())


def _write(track: SoundTrack, replaced: Packets, out_path: str) -> None:
    with (
        av.open(local(track.path), options=SAFE_INPUT) as container,
        av.open(local(out_path), "w", format="ipod", options={"fflags": "+bitexact"}) as out,
    ):
        template: Any = container.streams.best("audio")
        stream = out.add_stream_from_template(template)
        for number, packet in enumerate(_packets(container)):
            if number in replaced:
                new = av.Packet(replaced[number])
                new.pts, new.dts, new.duration, new.time_base = (
                    packet.pts,
                    packet.dts,
                    packet.duration,
                    packet.time_base,
                )
                packet = new
            packet.stream = stream
            out.mux(packet)
