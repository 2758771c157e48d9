"""The video file: pieces of H.264 yuv420p, each written while its frames come, then joined with the sound in an mp4."""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import IO, Self

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np

from stableavatar.errors import BrokenVideo, StorageError
from stableavatar.ffmpeg import SAFE_INPUT, SUBTITLES_INPUT, Ffmpeg, FfmpegError, local
from stableavatar.tracks import SOUND, SUBTITLES, Track
from stableavatar.units import FPS

CRF = 18  # visually lossless
PRESET = "medium"
THREADS = 4  # a constant: x264's bytes depend on it
KEY_DISTANCE = 50  # frames at most between pictures at which a player, or a correction, can begin: 2 s
HELD_BACK = 2  # frames by which the preset decodes ahead of what it shows

# The same frames give the same bytes on every node: no dates, no versions (x264 writes its own as SEI, type 6),
# no algorithm that depends on the processor.
_X264 = {
    "vcodec": "libx264",
    "pix_fmt": "yuv420p",
    "preset": PRESET,
    "crf": CRF,
    "g": KEY_DISTANCE,
    "x264-params": f"threads={THREADS}:cpu-independent=1",
    "bsf:v": "filter_units=remove_types=6",
}
_REPRODUCIBLE = {"flags:v": "+bitexact", "fflags": "+bitexact", "map_metadata": -1}
_TO_BT709 = {  # of the scale filter
    "in_range": "pc",
    "out_range": "tv",
    "out_color_matrix": "bt709",
    "flags": "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp",
}
_TAGS = {"range": "tv", "colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}  # setparams

# What ffmpeg cannot write is hardly the fault of the frames: the disk is full, or it was killed for memory.
_REMEDY = "Make room on the scratch disk and in memory, and run again."


class PieceWriter:
    """A context manager that turns RGB frames into a piece of a video's picture, without sound.

    Leaving the block finishes the file; leaving it with an error removes what was written. Memory does not grow with
    the length.
    """

    def __init__(
        self, path: str, *, width: int, height: int, num_frames: int, origin: str = "", crf: int = CRF
    ) -> None:
        """`width`, `height`: pixels, even. `origin` is a word that the file carries. Raises ValueError.

        `crf`: x264's constant rate factor, smaller is finer.
        """
        if width % 2 or height % 2 or min(width, height, num_frames) < 1:
            raise ValueError(
                f"no video of {width}x{height} pixels and {num_frames} frames: sizes are even, all positive"
            )
        self._path = path
        self._shape = (height, width, 3)
        self._num_frames = num_frames
        self._num_written = 0
        self._origin = origin
        self._x264 = {**_X264, "crf": crf}

    def __enter__(self) -> Self:
        height, width, _ = self._shape
        picture = ffmpeg.input(
            "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=FPS, color_range="pc", threads=1
        )
        output = ffmpeg.output(
            picture.filter("scale", **_TO_BT709).filter("setparams", **_TAGS).filter("setsar", 1),
            local(self._path),
            format="mp4", metadata=f"comment={self._origin}", **self._x264, **_REPRODUCIBLE,
        )  # fmt: skip
        self._ffmpeg = Ffmpeg(output.global_args("-filter_complex_threads", "1"), stdin=True)
        return self

    @property
    def num_missing(self) -> int:
        """Frames that are still to be written."""
        return self._num_frames - self._num_written

    def write(self, frames_VHWC: np.ndarray) -> None:
        """Appends any number of frames, uint8 RGB [V, H, W, 3]; those past `num_frames` are dropped.

        Raises StorageError if ffmpeg has ended, ValueError for another shape or type.
        """
        if frames_VHWC.dtype != np.uint8 or frames_VHWC.shape[1:] != self._shape:
            raise ValueError(f"frames are {frames_VHWC.dtype} {frames_VHWC.shape}, wanted uint8 [V, {self._shape}]")
        frames_VHWC = frames_VHWC[: self.num_missing]
        try:
            for frame_HWC in frames_VHWC:
                self._ffmpeg.stdin.write(np.ascontiguousarray(frame_HWC).data)
        except BrokenPipeError:
            self._finish()
            raise StorageError(f"{self._path}: the encoder ended before the last frame. {_REMEDY}") from None
        self._num_written += len(frames_VHWC)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = False
        try:
            if error is None:
                self._check_complete()
                self._finish()
                finished = True
        finally:
            self._ffmpeg.kill()
            if not finished and os.path.exists(self._path):
                os.remove(self._path)

    def _check_complete(self) -> None:
        if self.num_missing:
            raise BrokenVideo(f"{self._path}: only {self._num_written} of {self._num_frames} frames were made")

    def _finish(self) -> None:
        try:
            self._ffmpeg.finish()
        except FfmpegError as error:
            raise StorageError(f"{self._path}: the encoder failed: {error}. {_REMEDY}") from error


def is_piece(path: str, *, num_frames: int, origin: str) -> bool:
    """Whether the file is a whole piece of that many frames, and carries this word."""
    try:
        with av.open(local(path), options=SAFE_INPUT) as container:
            found = sum(packet.size > 0 for packet in container.demux(video=0))
            return (container.metadata.get("comment"), found) == (origin, num_frames)
    except (OSError, IndexError, av.FFmpegError):
        return False


def join(
    pieces: Sequence[tuple[str, int]], sound_path: str, path: str, *, language: str = "", tracks: Sequence[Track] = ()
) -> None:
    """Make a video of pieces, each with its number of frames, and their sound. Nothing is encoded again.

    `sound_path` is an m4a of exactly the video's length (`encode_sound`), which is copied as it is. So are the sounds
    among the further `tracks`, of which players offer a choice; the first sound, in this `language`, is what they play.

    Raises:
        StorageError: ffmpeg could not do it. No file is left.
    """
    picture = ffmpeg.input(
        "pipe:", format="concat", safe=0, auto_convert=0, protocol_whitelist="file,pipe", format_whitelist="concat,mov"
    )
    # A piece of one or two frames holds back fewer than others do: decoding times are counted anew over all pieces.
    counted = f"setts=pts=PTS:dts=(N-{HELD_BACK})/{FPS}/TB"
    sounds = [Track(kind=SOUND, language=language, path=sound_path), *(t for t in tracks if t.kind == SOUND)]
    subtitles = [track for track in tracks if track.kind == SUBTITLES]
    output = ffmpeg.output(
        picture.video,
        *(ffmpeg.input(local(sound.path), **SAFE_INPUT).audio for sound in sounds),
        *(ffmpeg.input(local(track.path), **SUBTITLES_INPUT)["s"] for track in subtitles),
        local(path),
        format="mp4", movflags="+faststart", **{"c:v": "copy", "c:a": "copy", "r:v": FPS, "bsf:v": counted},
        **_labels(sounds, subtitles), **_REPRODUCIBLE,
    )  # fmt: skip
    process, finished = Ffmpeg(output, stdin=True), False
    try:
        with suppress(BrokenPipeError):  # ffmpeg has ended; it tells why
            process.stdin.write(_listed(pieces).encode())
        process.finish()
        if subtitles:
            _turn_off_subtitles(path)
        finished = True
    except FfmpegError as error:
        raise StorageError(f"{path}: the pieces could not be joined: {error}. {_REMEDY}") from error
    finally:
        process.kill()
        if not finished and os.path.exists(path):
            os.remove(path)


def _labels(sounds: Sequence[Track], subtitles: Sequence[Track]) -> dict[str, str]:
    """ffmpeg's options that say what each sound and each subtitle is. A single sound of unknown language: none."""
    labels = {"c:s": "mov_text"} if subtitles else {}
    for letter, tracks in (("a", sounds), ("s", subtitles)):
        for number, track in enumerate(tracks):
            if track.language:
                labels[f"metadata:s:{letter}:{number}"] = f"language={track.language}"
            if letter == "s":
                labels[f"disposition:s:{number}"] = "0"  # shown when the viewer asks for them
            elif len(sounds) > 1:
                labels[f"disposition:a:{number}"] = "0" if number else "default"
    return labels


def _turn_off_subtitles(path: str) -> None:
    """Let subtitles appear only when the viewer asks for them: ffmpeg always enables the first in an mp4."""
    with open(path, "r+b") as file:
        for moov in _boxes(file, b"moov", 0, os.path.getsize(path)):
            for trak in _boxes(file, b"trak", *moov):
                (header,), (media,) = _boxes(file, b"tkhd", *trak), _boxes(file, b"mdia", *trak)
                ((handler, _),) = _boxes(file, b"hdlr", *media)
                if _bytes_at(file, handler + 8, 4) == b"sbtl":
                    flags = header[0] + 3  # behind the version and two bytes of flags; the lowest bit: enabled
                    enabled = _bytes_at(file, flags, 1)[0]
                    file.seek(flags)
                    file.write(bytes([enabled & ~1]))


def _boxes(file: IO[bytes], kind: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the boxes of a kind have their contents, among those in bytes [start, end) of an mp4 (ISO 14496-12)."""
    while start < end:
        size, name = struct.unpack(">I4s", _bytes_at(file, start, 8))
        header = 16 if size == 1 else 8
        if size == 1:
            (size,) = struct.unpack(">Q", _bytes_at(file, start + 8, 8))
        if name == kind:
            yield start + header, start + size
        start += size


def _bytes_at(file: IO[bytes], position: int, count: int) -> bytes:
    file.seek(position)
    return file.read(count)


@cache
def encoder() -> str:
    """Everything of the encoder that its bytes depend on, apart from the frames."""
    return f"{imageio_ffmpeg.get_ffmpeg_version()} {_X264} {_TO_BT709} {_TAGS}"


def _listed(pieces: Sequence[tuple[str, int]]) -> str:
    """The pieces as ffmpeg's concat demuxer reads them."""
    lines = ["ffconcat version 1.0"]
    for path, num_frames in pieces:
        quoted = local(path).replace("'", r"'\''")
        lines += [f"file '{quoted}'", f"duration {num_frames / FPS:.2f}"]
    return "\n".join(lines) + "\n"
