"""Raw videos that tests make for themselves: shots with hard cuts, and a voice."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

BARS, LIFE, MOVING = "smptehdbars", "rgbtestsrc", "testsrc2"  # pictures that ffmpeg draws
TONE = "sine=frequency=220:beep_factor=2:sample_rate=48000"
SILENCE = "anullsrc=sample_rate=48000"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A raw video. `shots`: (what is seen, seconds); `sound`: a source of ffmpeg, "" for none.

    What is seen is the name of a source of ffmpeg; one with a size of its own (`=size=`) is taken as it is.
    """

    shots: Sequence[tuple[str, float]]
    width: int = 320
    height: int = 180
    fps: str = "25"
    sound: str = TONE
    sound_s: float | None = None  # seconds; as long as the picture where not given

    @property
    def duration_s(self) -> float:
        return sum(seconds for _, seconds in self.shots)


def write_raw(path: Path, raw: Raw, **options: Any) -> str:
    """The video as the suffix of `path` says."""
    size = f"size={raw.width}x{raw.height}:rate={raw.fps}"
    shots = [
        ffmpeg.input(name if "size=" in name else f"{name}={size}", format="lavfi", t=seconds)
        for name, seconds in raw.shots
    ]
    streams = [ffmpeg.concat(*(shot.filter("format", "yuv420p").filter("setsar", 1) for shot in shots))]
    if raw.sound:
        streams.append(ffmpeg.input(raw.sound, format="lavfi", t=raw.sound_s or raw.duration_s))
    words = {"vcodec": "libx264", "preset": "ultrafast", "threads": 1, "loglevel": "error", **options}
    ffmpeg.output(*streams, str(path), **words).run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)
    return str(path)


def change(path: str, out: Path, *inputs: str, **options: Any) -> str:
    """A copy of a video that is not encoded again."""
    stream = ffmpeg.input(path, **dict(zip(inputs[::2], inputs[1::2], strict=True)))
    stream = stream.output(str(out), codec="copy", loglevel="error", **options)
    stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)
    return str(out)


def frame_hashes(path: Path) -> list[str]:
    """By ffmpeg, one for each frame of the picture."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "warning", "-i", str(path), "-map", "0:v", "-f", "framehash", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [line.split()[-1] for line in done.stdout.splitlines() if not line.startswith("#")]
