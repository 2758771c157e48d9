"""Subtitles of any video: read from SRT or WebVTT, and cut to the video's length."""

import codecs
import os
from pathlib import Path

import ffmpeg

from stableavatar.errors import BadInput
from stableavatar.ffmpeg import SUBTITLES_INPUT, FfmpegError, local, read

MAX_BYTES = 20_000_000  # of a file; a day of dense talk has about two million
_REMEDY = "Give an SRT or WebVTT file with text in it, saved as UTF-8."


def read_subtitles(path: str, *, duration_s: float) -> bytes:
    """The subtitles as SRT in UTF-8. Their time zero is that of the video; what lies after `duration_s` is cut.

    Raises BadInput: no such file, no subtitles, not UTF-8 (or UTF-16 that says so), nothing to be seen in that time.
    """
    _check_text(path)
    stop = f"{duration_s}/TB-PTS"
    subtitles = ffmpeg.input(local(path), **SUBTITLES_INPUT)["s:0"].output(
        "pipe:", format="srt", t=duration_s, map_metadata=-1, fflags="+bitexact",
        **{"c:s": "subrip", "bsf:s": f"setts=duration=min(DURATION\\,{stop})"},
    )  # fmt: skip
    try:
        srt = b"".join(read(subtitles))
    except FfmpegError as error:
        raise BadInput(f"{path} is not subtitles that can be read ({error}). {_REMEDY}") from error
    if not srt.strip():
        raise BadInput(f"{path} shows nothing in the {duration_s:g} s of the video. {_REMEDY}")
    return srt


def _check_text(path: str) -> None:
    """What the decoder cannot read as text it would leave out, and go on."""
    if not os.path.isfile(path):
        raise BadInput(f"{path}: no such file. Correct the path of the subtitles.")
    if os.path.getsize(path) > MAX_BYTES:
        raise BadInput(f"{path} is larger than {MAX_BYTES:,} bytes, too much for subtitles. {_REMEDY}")
    data = Path(path).read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        data.decode("utf-16" if is_utf16 else "utf-8")
    except UnicodeError as error:
        raise BadInput(f"{path} is not UTF-8 text ({error}). {_REMEDY}") from error
