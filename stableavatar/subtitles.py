"""Subtitles of any video: read from SRT or WebVTT, and cut to the video's length."""

import codecs
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import ffmpeg

from stableavatar.errors import BadInput
from stableavatar.ffmpeg import SUBTITLES_INPUT, FfmpegError, local, read

MAX_BYTES = 20_000_000  # of a file; a day of dense talk has about two million
_REMEDY = "Give an SRT or WebVTT file with text in it, saved as UTF-8."
_TIME = r"(\d+):(\d\d):(\d\d),(\d{3})"
_HEAD = re.compile(rf"^\d+\n{_TIME} --> {_TIME}\n", re.MULTILINE)  # as ffmpeg writes it


@dataclass(frozen=True, kw_only=True)
class Cue:
    """A text, and the milliseconds [start, end) of the video in which it is shown."""

    start: int
    end: int
    text: str


def read_subtitles(path: str, *, duration_s: float) -> bytes:
    """The subtitles as SRT in UTF-8. Their time zero is that of the video; what lies after `duration_s` is cut.

    No two are shown at once, which an mp4 could not hold: where they overlap, one of its own shows the text of both.
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
    return _without_overlaps(srt.decode(), path).encode()


def _without_overlaps(srt: str, path: str) -> str:
    cues = _cues(srt)
    if all(first.end <= second.start for first, second in pairwise(cues)):
        return srt
    return "".join(
        f"{number}\n{_clock(cue.start)} --> {_clock(cue.end)}\n{cue.text}\n\n"
        for number, cue in enumerate(_disjoint(cues, path), start=1)
    )


def _cues(srt: str) -> list[Cue]:
    """The cues by their start."""
    heads = list(_HEAD.finditer(srt))
    ends = [head.start() for head in heads[1:]] + [len(srt)]
    cues = []
    for head, end in zip(heads, ends, strict=True):
        times = [int(digits) for digits in head.groups()]
        start_ms, end_ms = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (times[:4], times[4:]))
        cues.append(Cue(start=start_ms, end=end_ms, text=srt[head.end() : end].strip("\n")))
    return sorted(cues, key=lambda cue: cue.start)


def _disjoint(cues: Sequence[Cue], path: str) -> list[Cue]:
    """The same texts at the same times, of which no two are shown at once. Raises BadInput: that would be endless."""
    edges = sorted({edge for cue in cues for edge in (cue.start, cue.end)})
    waiting, found, size = list(reversed(cues)), [], 0
    shown: list[Cue] = []
    for start, end in pairwise(edges):
        shown = [cue for cue in shown if cue.end > start]
        while waiting and waiting[-1].start <= start:
            shown.append(waiting.pop())
        text = "\n".join(dict.fromkeys(cue.text for cue in shown if cue.end > start))
        size += len(text)
        if size > MAX_BYTES:
            raise BadInput(f"{path} shows too many texts at once. Let them follow each other.")
        if text:
            found.append(Cue(start=start, end=end, text=text))
    return found


def _clock(milliseconds: int) -> str:
    seconds, ms = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{ms:03}"


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
