"""The video file, written while its frames come: H.264 yuv420p with the sound track beside it, in an mp4."""

import os
from types import TracebackType
from typing import Self

import ffmpeg
import numpy as np

from stableavatar.errors import BrokenVideo
from stableavatar.ffmpeg import SAFE_INPUT, Ffmpeg, FfmpegError, local
from stableavatar.units import FPS

CRF = 18  # visually lossless
PRESET = "medium"
THREADS = 4  # a constant: x264's bytes depend on it

# The same frames give the same bytes on every node: no dates, no versions (x264 writes its own as SEI, type 6),
# no algorithm that depends on the processor.
_REPRODUCIBLE = {
    "x264-params": f"threads={THREADS}:cpu-independent=1",
    "bsf:v": "filter_units=remove_types=6",
    "flags:v": "+bitexact",
    "fflags": "+bitexact",
    "map_metadata": -1,
}
_TO_BT709 = {  # of the scale filter
    "in_range": "pc",
    "out_range": "tv",
    "out_color_matrix": "bt709",
    "flags": "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp",
}
_TAGS = {"range": "tv", "colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}  # setparams


class VideoWriter:
    """A context manager that turns RGB frames into a finished video with sound.

    Leaving the block finishes the file; leaving it with an error removes what was written. `sound_path` is an m4a of
    exactly the video's length (`encode_sound`), which is copied as it is. Memory does not grow with the length.
    """

    def __init__(self, path: str, *, width: int, height: int, num_frames: int, sound_path: str) -> None:
        """`width`, `height`: pixels, even. Raises ValueError."""
        if width % 2 or height % 2 or min(width, height, num_frames) < 1:
            raise ValueError(
                f"no video of {width}x{height} pixels and {num_frames} frames: sizes are even, all positive"
            )
        self._path = path
        self._sound_path = sound_path
        self._shape = (height, width, 3)
        self._num_frames = num_frames
        self._num_written = 0

    def __enter__(self) -> Self:
        height, width, _ = self._shape
        picture = ffmpeg.input(
            "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=FPS, color_range="pc", threads=1
        )
        output = ffmpeg.output(
            picture.filter("scale", **_TO_BT709).filter("setparams", **_TAGS).filter("setsar", 1),
            ffmpeg.input(local(self._sound_path), **SAFE_INPUT).audio,
            local(self._path),
            format="mp4", movflags="+faststart", vcodec="libx264", pix_fmt="yuv420p", preset=PRESET, crf=CRF,
            acodec="copy", **_REPRODUCIBLE,
        )  # fmt: skip
        self._ffmpeg = Ffmpeg(output.global_args("-filter_complex_threads", "1"), stdin=True)
        return self

    def write(self, frames_VHWC: np.ndarray) -> None:
        """Appends any number of frames, uint8 RGB [V, H, W, 3]; those past `num_frames` are dropped.

        Raises BrokenVideo if ffmpeg has ended, ValueError for another shape or type.
        """
        if frames_VHWC.dtype != np.uint8 or frames_VHWC.shape[1:] != self._shape:
            raise ValueError(f"frames are {frames_VHWC.dtype} {frames_VHWC.shape}, wanted uint8 [V, {self._shape}]")
        frames_VHWC = frames_VHWC[: self._num_frames - self._num_written]
        try:
            for frame_HWC in frames_VHWC:
                self._ffmpeg.stdin.write(np.ascontiguousarray(frame_HWC).data)
        except BrokenPipeError:
            self._finish()
            raise BrokenVideo(f"{self._path}: the encoder ended before the last frame") from None
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
        if self._num_written < self._num_frames:
            raise BrokenVideo(f"{self._path}: only {self._num_written} of {self._num_frames} frames were made")

    def _finish(self) -> None:
        try:
            self._ffmpeg.finish()
        except FfmpegError as error:
            raise BrokenVideo(f"{self._path}: the encoder failed: {error}") from error
