"""A finished video, opened again: is it what was promised, and how does the picture fare over time?"""

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np

from stableavatar.errors import DISK_FAILURES, BrokenVideo
from stableavatar.ffmpeg import SAFE_INPUT, local
from stableavatar.units import FPS

BLANK_DEVIATION = 2.0  # a frame with a smaller standard deviation of luma (0..255) shows nothing
FROZEN_MOTION = 0.005  # a frame that differs less from the one before, in mean absolute luma (0..255), stands still


@dataclass(frozen=True, kw_only=True)
class VideoQuality:
    """What a video file holds, by decoding it. The lists have one value per second of video."""

    num_frames: int
    duration_s: float  # end of the last frame on the medium's time line
    sound_duration_s: float  # end of the last sample, 0 without sound
    width: int  # pixels
    height: int
    codec: str
    pix_fmt: str
    fps: float
    audio_codec: str  # empty without sound
    faststart: bool  # the index lies before the data: playing starts before all is loaded
    num_blank_frames: int
    num_frozen_frames: int
    brightness: list[float]  # mean luma, 0 (black) to 255 (white)
    sharpness: list[float]  # variance of the Laplacian of luma
    motion: list[float]  # mean absolute difference of luma from the frame before, 0..255


@dataclass
class _Picture:
    """Figures of the frames seen so far; one frame is kept."""

    num_frames: int = 0
    end_s: float = 0.0
    num_blank: int = 0
    num_frozen: int = 0
    brightness: list[float] = field(default_factory=list)  # sums per second
    sharpness: list[float] = field(default_factory=list)
    motion: list[float] = field(default_factory=list)
    previous_HW: np.ndarray | None = None

    def see(self, frame: Any) -> None:
        luma_HW = _luma(frame)
        if self.num_frames % FPS == 0:
            for sums in (self.brightness, self.sharpness, self.motion):
                sums.append(0.0)
        self.brightness[-1] += float(luma_HW.mean())
        self.sharpness[-1] += _sharpness(luma_HW)
        self.num_blank += bool(luma_HW.std() < BLANK_DEVIATION)
        if self.previous_HW is not None:
            motion = float(np.abs(luma_HW - self.previous_HW).mean())
            self.motion[-1] += motion
            self.num_frozen += motion < FROZEN_MOTION
        self.previous_HW = luma_HW
        self.num_frames += 1
        self.end_s = float((frame.pts + frame.duration) * frame.time_base)

    def means(self, sums: list[float], *, first_missing: bool = False) -> list[float]:
        """Sums per second to means; the last second may be short. The first frame has no motion."""
        counts = [min(FPS, self.num_frames - second * FPS) for second in range(len(sums))]
        if first_missing and counts:
            counts[0] -= 1
        return [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]


def measure_video(path: str, see: Callable[[Any], None] = lambda frame: None) -> VideoQuality:
    """Decodes the whole file, frame by frame in constant memory. `see` is shown each frame as PyAV decodes it.

    Raises BrokenVideo: no such file, not a video, a frame that cannot be decoded; OSError if the disk fails.
    """
    try:
        with av.open(local(path), options={**SAFE_INPUT, "err_detect": "explode"}) as container:
            return _measure(path, container, see)
    except (OSError, av.FFmpegError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FAILURES:
            raise  # which says nothing about the video
        raise BrokenVideo(f"{path} cannot be decoded: {error}") from error


def check_contract(quality: VideoQuality, *, num_frames: int, width: int, height: int) -> None:
    """Raises BrokenVideo that names every promise about the file that `quality` breaks."""
    promised = {
        "num_frames": num_frames, "width": width, "height": height, "codec": "h264", "pix_fmt": "yuv420p",
        "fps": float(FPS), "audio_codec": "aac", "faststart": True,
    }  # fmt: skip
    found = {name: getattr(quality, name) for name in promised}
    broken = [f"{name} is {found[name]}, not {value}" for name, value in promised.items() if found[name] != value]
    for name, seconds in (("picture", quality.duration_s), ("sound", quality.sound_duration_s)):
        if abs(seconds - num_frames / FPS) > 1 / FPS:
            broken.append(f"the {name} lasts {seconds:.3f} s, not {num_frames / FPS:.3f} s")
    if abs(quality.duration_s - quality.sound_duration_s) > 1 / FPS:
        broken.append("picture and sound differ by more than one frame")
    if broken:
        raise BrokenVideo("the video breaks its contract: " + "; ".join(broken))


def _measure(path: str, container: Any, see: Callable[[Any], None]) -> VideoQuality:
    film, sound = container.streams.best("video"), container.streams.best("audio")
    if film is None:
        raise BrokenVideo(f"{path} has no video stream")
    picture, sound_end_s = _Picture(), 0.0
    for frame in container.decode([stream for stream in (film, sound) if stream is not None]):
        if isinstance(frame, av.VideoFrame):
            picture.see(frame)
            see(frame)
        else:
            sound_end_s = float((frame.pts + frame.duration) * frame.time_base)
    return VideoQuality(
        num_frames=picture.num_frames,
        duration_s=picture.end_s,
        sound_duration_s=sound_end_s,
        width=film.width,
        height=film.height,
        codec=film.codec_context.name,
        pix_fmt=film.pix_fmt or "",
        fps=float(film.average_rate or 0),
        audio_codec=sound.codec_context.name if sound is not None else "",
        faststart=_is_faststart(path),
        num_blank_frames=picture.num_blank,
        num_frozen_frames=picture.num_frozen,
        brightness=picture.means(picture.brightness),
        sharpness=picture.means(picture.sharpness),
        motion=picture.means(picture.motion, first_missing=True),
    )


def _luma(frame: Any) -> np.ndarray:
    """Luma of a planar YUV frame, float32 [H, W], spread to 0 (black) .. 255 (white)."""
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
    full_range = frame.format.name.startswith("yuvj") or frame.color_range == av.video.reformatter.ColorRange.JPEG
    return rows.astype(np.float32) if full_range else (rows.astype(np.float32) - 16) * np.float32(255 / 219)


def _sharpness(luma_HW: np.ndarray) -> float:
    y = luma_HW
    laplacian = y[:-2, 1:-1] + y[2:, 1:-1] + y[1:-1, :-2] + y[1:-1, 2:] - 4 * y[1:-1, 1:-1]
    return float(laplacian.var()) if laplacian.size else 0.0


def _is_faststart(path: str) -> bool:
    kinds = list(_boxes(path))
    return b"moov" in kinds and b"mdat" in kinds and kinds.index(b"moov") < kinds.index(b"mdat")


def _boxes(path: str) -> Iterator[bytes]:
    """The kinds of the boxes an mp4 consists of, in the order of the file."""
    end = os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while len(header := file.read(16)) >= 8 and position < end:
            size, kind = struct.unpack(">I4s", header[:8])
            yield kind
            if size == 1 and len(header) == 16:  # the true size follows
                (size,) = struct.unpack(">Q", header[8:])
            position += size if size >= 8 else end  # 0: up to the end of the file
            file.seek(position)
