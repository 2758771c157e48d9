"""A finished video of this program, taken apart at its key frames: what is copied as it is, and what is decoded.

Shapes: V video frames, H W height and width, C colours.
"""

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, islice
from typing import Any

import av
import ffmpeg
import numpy as np

from stableavatar.errors import BadInput, StorageError
from stableavatar.ffmpeg import SAFE_INPUT, FfmpegError, local, read_pictures
from stableavatar.text import one_line
from stableavatar.units import FPS
from stableavatar.video.writer import PieceWriter

_FORMAT = {**SAFE_INPUT, "codec_whitelist": "h264,aac,mov_text"}
_TO_RGB = {  # of the scale filter: what the writer does to the picture, backwards
    "in_range": "tv",
    "out_range": "pc",
    "in_color_matrix": "bt709",
    "flags": "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp",
}
_REMEDY = "Name a video that this program has made with the row's own settings, or render the row without base_video."


@dataclass(frozen=True, kw_only=True)
class Film:
    """The picture of a finished video.

    `keys`: frames at which a part of it can begin, from 0, and behind the last frame. `ends`: frames before which a
    part can end, because those before are stored before all others.
    """

    path: str
    width: int  # pixels
    height: int
    num_frames: int
    keys: tuple[int, ...]
    ends: tuple[int, ...]

    def cut_around(self, first: int, stop: int) -> tuple[int, int]:
        """The least frames [first, stop) around these of which both neighbours can be kept as they are."""
        return max(end for end in self.ends if end <= first), min(key for key in self.keys if key >= stop)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What a finished video has beside its picture and its sound."""

    language: str  # of its sound, ISO 639-2; empty if unknown
    num_sounds: int  # further ones
    num_subtitles: int


def carried(path: str) -> Carried:
    """What the video has beside picture and sound. Raises BadInput if it cannot be read."""
    try:
        with av.open(local(path), options=_FORMAT) as container:
            sounds, subtitles = container.streams.audio, container.streams.subtitles
            language = sounds[0].metadata.get("language", "und") if sounds else "und"
    except (OSError, av.FFmpegError) as error:
        raise BadInput(f"{path} cannot be read as a video ({one_line(str(error))}). {_REMEDY}") from error
    known = "" if language == "und" else language
    return Carried(language=known, num_sounds=max(0, len(sounds) - 1), num_subtitles=len(subtitles))


def open_film(path: str, size: tuple[int, int] | None = None) -> Film:
    """Look at the packets of a finished video; nothing is decoded.

    Args:
        path: the video.
        size: width and height that it must have, if they are known.

    Raises:
        BadInput: it is none of this program, its picture could not stand beside a new one, or it has another size.
    """
    try:
        with av.open(local(path), options=_FORMAT) as container:
            if not container.streams.video or not container.streams.audio:
                raise BadInput(f"{path} has no picture or no sound. {_REMEDY}")
            stream = container.streams.video[0]
            width, height, header = stream.width, stream.height, stream.codec_context.extradata
            if size and (width, height) != size:  # before a picture of a size that a stranger chose is encoded
                raise BadInput(
                    f"{path} has {width}x{height} pixels, but this row's video has {size[0]}x{size[1]}. Give the row "
                    "all else (audio, width, height, ...) as it was when that video was made."
                )
            ours = stream.codec_context.name == "h264" and not (width % 2 or height % 2)
            if not ours or header != _header(width, height):
                raise BadInput(f"{path} is not encoded as this program does it now. {_REMEDY}")
            frames = {_number(packet): packet.is_keyframe for packet in container.demux(stream) if packet.size}
    except (OSError, av.FFmpegError) as error:
        raise BadInput(f"{path} cannot be read as a video ({one_line(str(error))}). {_REMEDY}") from error
    if sorted(frames) != list(range(len(frames))) or not frames.get(0):
        raise BadInput(f"{path} does not show a frame at each 1/{FPS} s from its start on. {_REMEDY}")
    keys = (*sorted(int(number) for number, is_key in frames.items() if is_key), len(frames))
    last = accumulate((int(number) for number in frames), max)
    ends = (0, *(count for count, number in enumerate(last, start=1) if number == count - 1))
    return Film(path=path, width=width, height=height, num_frames=len(frames), keys=keys, ends=ends)


def copy_frames(film: Film, first: int, stop: int, out_path: str) -> None:
    """Write frames [first, stop) as a piece, packet by packet: from one of the film's `keys` to one of its `ends`.

    Raises StorageError if it cannot be written.
    """
    with _blaming_disk(out_path), av.open(local(film.path), options=_FORMAT) as container:
        stream: Any = container.streams.video[0]
        with av.open(local(out_path), "w", format="mp4", options={"fflags": "+bitexact"}) as piece:
            copy = piece.add_stream_from_template(stream)
            offset = round(Fraction(first, FPS) / stream.time_base)
            packet: Any
            for packet in container.demux(stream):
                if packet.size and first <= _number(packet) < stop:
                    packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                    packet.stream = copy
                    piece.mux(packet)


def read_frames(film: Film, first: int, stop: int) -> Generator[np.ndarray]:
    """Frames [first, stop), each uint8 RGB [H, W, 3]. Only the part of the film that is needed is decoded.

    Raises BadInput if they cannot be decoded.
    """
    start, end = max(key for key in film.keys if key <= first), min(end for end in film.ends if end >= stop)
    with tempfile.TemporaryDirectory(prefix=".frames-") as folder:
        piece = os.path.join(folder, "piece.mp4")
        copy_frames(film, start, end, piece)
        yield from islice(_decoded(film, piece), first - start, stop - start)


def _decoded(film: Film, piece: str) -> Iterator[np.ndarray]:
    picture = ffmpeg.input(local(piece), **_FORMAT).video.filter("scale", **_TO_RGB)
    output = picture.output("pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough")
    try:
        yield from read_pictures(output.global_args("-cpuflags", "0"), width=film.width, height=film.height)
    except FfmpegError as error:
        raise BadInput(f"{film.path} cannot be decoded ({error}). {_REMEDY}") from error


@lru_cache(maxsize=32)
def _header(width: int, height: int) -> bytes | None:
    """What the encoder of this program puts before the picture of that size, found by asking it."""
    with tempfile.TemporaryDirectory(prefix=".header-") as folder:
        path = os.path.join(folder, "piece.mp4")
        with PieceWriter(path, width=width, height=height, num_frames=1) as writer:
            writer.write(np.zeros((1, height, width, 3), np.uint8))
        with av.open(local(path), options=_FORMAT) as container:
            return container.streams.video[0].codec_context.extradata


def _number(packet: Any) -> Fraction | int:
    """The frame of a packet; no whole number if it does not lie on the clock."""
    return Fraction(packet.pts * packet.time_base * FPS) if packet.pts is not None else -1


@contextmanager
def _blaming_disk(path: str) -> Iterator[None]:
    """The film was read before: what fails now is the disk."""
    try:
        yield
    except av.FFmpegError as error:
        raise StorageError(
            f"{path} could not be written: {one_line(str(error))}. Make room on the scratch disk."
        ) from error
