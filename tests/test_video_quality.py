import dataclasses
import subprocess
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.audio.decode import encode_sound
from stableavatar.errors import BrokenVideo
from stableavatar.video.quality import VideoQuality, check_contract, measure_video
from tests.media import video_writer, write_tone

SIZE = 128  # pixels a side


def scene(shift: int = 0) -> np.ndarray:
    """A smooth, coloured picture that can be moved sideways: uint8 [H, W, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [np.sin(2 * np.pi * (2 * x + k * y / 2)) for k in range(3)]
    return np.roll((127.5 + 100 * np.stack(waves, -1)).astype(np.uint8), shift, axis=1)


def measure(folder: Path, frames: Iterable[np.ndarray]) -> VideoQuality:
    frames_VHWC = np.stack(list(frames))
    write_tone(folder / "tone.wav", duration_s=1.0)
    encode_sound(str(folder / "tone.wav"), str(folder / "tone.m4a"), duration_s=len(frames_VHWC) / 25)
    with video_writer(
        str(folder / "a.mp4"), width=SIZE, height=SIZE, num_frames=len(frames_VHWC), sound_path=str(folder / "tone.m4a")
    ) as writer:
        writer.write(frames_VHWC)
    return measure_video(str(folder / "a.mp4"))


def flat(level: int) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), level, np.uint8)


def test_a_moving_scene_is_neither_blank_nor_frozen(tmp_path: Path) -> None:
    quality = measure(tmp_path, [scene(k) for k in range(60)])
    check_contract(quality, num_frames=60, width=SIZE, height=SIZE)
    assert (quality.num_blank_frames, quality.num_frozen_frames) == (0, 0)
    assert [len(values) for values in (quality.brightness, quality.sharpness, quality.motion)] == [3, 3, 3]
    assert quality.motion == pytest.approx([quality.motion[0]] * 3, rel=0.1)
    assert quality.motion[0] > 1


def test_a_scene_that_stands_still_is_frozen(tmp_path: Path) -> None:
    quality = measure(tmp_path, [scene()] * 50)
    assert quality.num_frozen_frames >= 45  # the encoder refines a few
    assert quality.num_blank_frames == 0


def test_a_moving_mouth_is_not_frozen(tmp_path: Path) -> None:
    def talking(k: int) -> np.ndarray:
        picture = scene()
        picture[80 : 86 + 6 * (k % 2), 50:78] = 30
        return picture

    assert measure(tmp_path, [talking(k) for k in range(50)]).num_frozen_frames == 0


def test_flat_frames_are_blank_and_brightness_is_per_second(tmp_path: Path) -> None:
    quality = measure(tmp_path, [flat(40)] * 25 + [flat(200)] * 25 + [scene()] * 5)
    assert quality.num_blank_frames == 50
    luma = float((scene() @ [0.2126, 0.7152, 0.0722]).mean())
    assert quality.brightness == pytest.approx([40, 200, luma], abs=2)
    assert quality.motion[0] < 0.1 and quality.motion[1] == pytest.approx(160 / 25, rel=0.05)


def test_black_and_white_are_0_and_255(tmp_path: Path) -> None:
    assert measure(tmp_path, [flat(0)] * 2).brightness == pytest.approx([0], abs=0.5)
    assert measure(tmp_path, [flat(255)] * 2).brightness == pytest.approx([255], abs=0.5)


def test_detail_is_sharper_than_a_smooth_scene(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 1), np.uint8).repeat(3, -1)
    assert measure(tmp_path, [noise]).sharpness[0] > 100 * measure(tmp_path, [scene()]).sharpness[0]


def test_one_frame_has_no_motion(tmp_path: Path) -> None:
    quality = measure(tmp_path, [scene()])
    assert (quality.num_frames, quality.motion, quality.num_frozen_frames) == (1, [0.0], 0)


def test_every_broken_promise_is_named(tmp_path: Path) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "testsrc=d=2:s=64x48:r=30"]
    subprocess.run([*command, "-pix_fmt", "yuv444p", str(tmp_path / "other.mp4")], check=True)
    with pytest.raises(BrokenVideo) as caught:
        check_contract(measure_video(str(tmp_path / "other.mp4")), num_frames=25, width=64, height=64)
    for promise in ("num_frames is 60, not 25", "height is 48", "pix_fmt is yuv444p", "fps is 30.0", "audio_codec is ,",
                    "faststart is False", "picture lasts 2.000 s", "sound lasts 0.000 s"):  # fmt: skip
        assert promise in str(caught.value)
    assert "width" not in str(caught.value)


def test_sound_that_ends_early_breaks_the_contract(tmp_path: Path) -> None:
    quality = dataclasses.replace(measure(tmp_path, [scene()] * 10), sound_duration_s=0.3)
    with pytest.raises(BrokenVideo, match=r"sound lasts 0\.300 s, not 0\.400 s"):
        check_contract(quality, num_frames=10, width=SIZE, height=SIZE)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    measure(tmp_path, [scene(k) for k in range(30)])
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("hello")
    for name in ("text.mp4", "missing.mp4", "tone.wav"):
        with pytest.raises(BrokenVideo, match=name):
            measure_video(str(tmp_path / name))
    with pytest.raises(BrokenVideo):
        check_contract(measure_video(str(tmp_path / "cut.mp4")), num_frames=30, width=SIZE, height=SIZE)
