"""A video as training sees it: upright, 25 frames a second from the medium's time zero on, its sound beside them.

Shapes: H W height and width, C colours.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import ffmpeg
import numpy as np

from stableavatar.audio.decode import measure_sound
from stableavatar.audio.source import open_source
from stableavatar.errors import BadInput
from stableavatar.ffmpeg import PROBE_INPUT, FfmpegError, local, read_pictures
from stableavatar.limits import Limits
from stableavatar.preprocess.layout import Bucket
from stableavatar.text import one_line
from stableavatar.units import FPS

MAX_SOUND_S = 7 * 24 * 3600.0
_REMEDY = "Give a whole video file with picture and sound."
_TO_RGB = {"out_range": "pc", "flags": "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"}  # of the scale filter
# Of the whole command: times as the file has them, and damage ends it instead of being painted over.
_STRICT = ("-copyts", "-xerror")


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The picture of a video. Frames count from the medium's zero, 25 a second.

    `width`, `height`: as it is to be seen, with square pixels, upright. `first`: frame from which on there are picture
    and sound; `sound_stop`: frame before which the sound ends.
    """

    path: str
    index: int  # of the stream in the file
    zero_s: float  # the medium's zero by the file's own clock
    width: float  # pixels
    height: float
    first: int
    sound_stop: int


def open_footage(path: str) -> Footage:
    """Look at a video, and listen to all of its sound.

    Raises BadInput: no video, no picture, no sound, or a sound that is damaged or broken off.
    """
    with blaming(path), av.open(local(path), options=PROBE_INPUT, metadata_errors="replace") as container:
        stream = _film(path, container)
        picture: Any = next(container.decode(stream), None)
        if picture is None:
            raise BadInput(f"{path} has no picture that can be decoded. {_REMEDY}")
        index, (width, height) = stream.index, _shown_size(picture, stream.sample_aspect_ratio)
    sound = open_source(path)
    heard = measure_sound(path, limits=Limits(max_sound_s=MAX_SOUND_S))
    seen_s = max(0.0, float(picture.time or 0.0) - sound.zero_s)
    return Footage(
        path=path,
        index=index,
        zero_s=sound.zero_s,
        width=width,
        height=height,
        first=max(round(seen_s * FPS), math.floor(sound.delay / sound.sample_rate * FPS)),
        sound_stop=math.ceil(heard.duration_s * FPS - 1e-6),
    )


def at_25_fps(footage: Footage) -> Any:
    """The picture as an ffmpeg-python stream: frame n is what is seen at n/25 s."""
    film = ffmpeg.input(local(footage.path), **PROBE_INPUT)[str(footage.index)]
    return film.filter("setpts", f"PTS-{footage.zero_s:.6f}/TB").filter("fps", fps=FPS, start_time=0)


def output(stream: Any, pix_fmt: str) -> Any:
    """The end of an ffmpeg-python graph that gives every frame as it is to `pipe:`, and fails where one is damaged."""
    raw = stream.output("pipe:", format="rawvideo", pix_fmt=pix_fmt, fps_mode="passthrough")
    return raw.global_args(*_STRICT)


def read_footage(footage: Footage, bucket: Bucket, first: int, stop: int) -> Generator[np.ndarray]:
    """Frames [first, stop), scaled to cover the bucket's size and cropped at the middle: each uint8 RGB [H, W, 3].

    Memory does not grow with their number. Raises BadInput if they cannot be decoded.
    """
    scale = max(bucket.width / footage.width, bucket.height / footage.height)
    width = max(bucket.width, round(footage.width * scale))
    height = max(bucket.height, round(footage.height * scale))
    picture = at_25_fps(footage).filter("trim", start_frame=first, end_frame=stop)
    picture = picture.filter("scale", width, height, **_TO_RGB).filter("format", "rgb24")
    picture = picture.filter("crop", bucket.width, bucket.height)
    with blaming(footage.path):
        yield from read_pictures(output(picture, "rgb24"), width=bucket.width, height=bucket.height)


@contextmanager
def blaming(path: str) -> Iterator[None]:
    """What cannot be decoded is the fault of the file."""
    try:
        yield
    except (OSError, av.FFmpegError, FfmpegError) as error:
        # "Invalid argument" is how a format that is not on the list is refused.
        refused = isinstance(error, av.ArgumentError)
        reason = "no video format" if refused else one_line(getattr(error, "strerror", None) or str(error))
        raise BadInput(f"{path} is not a video that can be decoded ({reason}). {_REMEDY}") from error


def _film(path: str, container: Any) -> Any:
    """The first film; a cover picture is none."""
    covers = av.stream.Disposition.attached_pic
    films = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not films:
        raise BadInput(f"{path} has no picture. {_REMEDY}")
    return films[0]


def _shown_size(picture: Any, pixel_ratio: Any) -> tuple[float, float]:
    """Width and height as it is to be seen: pixels need not be square, and phones lay films on their side."""
    width, height = picture.width * float(pixel_ratio or 1), float(picture.height)
    return (height, width) if picture.rotation % 180 else (width, height)
