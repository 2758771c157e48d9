"""The folder of one clip: `sub_clip.mp4`, `audio.wav`, `images/`, `face_masks/`, `lip_masks/` and `clip.json`.

Shapes: H W height and width, C colours.
"""

import json
import os
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stableavatar.audio.decode import write_aac
from stableavatar.errors import BadInput
from stableavatar.preprocess.layout import ABOUT, Bucket
from stableavatar.preprocess.masks import Landmarks, MaskWriter, frame_name, png
from stableavatar.preprocess.reel import Reel
from stableavatar.preprocess.shots import Shot
from stableavatar.units import SPEECH_RATE
from stableavatar.video.writer import PieceWriter, join

FACE_SHARE = 0.5  # of a clip's frames must show a face
LEAST_HEARD_S = 0.1  # seconds of a clip; less is what filters and codecs ring at the edge of a silence
_SILENT_PEAK = 1  # of 32,768: rounding, which no sound is


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A part of a video, as it is to be written. `masks`: a word for what finds the faces."""

    video_sha256: str
    shot: Shot
    bucket: Bucket
    masks: str


def write_clip(clip: Clip, reel: Reel, folder: str, landmarks: Landmarks | None) -> int:
    """Write everything of a clip to a folder that is there and empty. Gives the number of frames that show a face.

    Raises BadInput: silence, too few faces; StorageError if something cannot be written.
    """
    if write_audio(reel.speech(clip.shot), os.path.join(folder, "audio.wav")) < LEAST_HEARD_S * SPEECH_RATE:
        raise BadInput("its sound is silence. Give a video in which someone is heard.")
    num_faces = _write_picture(clip, reel.frames(clip.shot), folder, landmarks)
    if landmarks and num_faces < FACE_SHARE * clip.shot.num_frames:
        raise BadInput(f"only {num_faces} of {clip.shot.num_frames} frames show a face. Give a video that shows it.")
    _add_sound(clip, reel, folder)
    about = {"video_sha256": clip.video_sha256, "first_frame": clip.shot.first, "num_frames": clip.shot.num_frames}
    Path(folder, ABOUT).write_text(json.dumps({**about, "masks": clip.masks}) + "\n")
    return num_faces


def write_audio(chunks: Iterable[np.ndarray], path: str) -> int:
    """Write samples, float32 [n, 1] at 16 kHz, as WAV of 16 bits. Gives the number of those that are heard."""
    num_heard = 0
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SPEECH_RATE)
        for chunk in chunks:
            samples = np.clip(np.rint(chunk * 32_768), -32_768, 32_767)
            num_heard += int((np.abs(samples) > _SILENT_PEAK).sum())
            file.writeframes(samples.astype("<i2").tobytes())
    return num_heard


def read_about(folder: str) -> dict[str, Any] | None:
    """What `write_clip` noted in a folder; None if no clip is there."""
    try:
        return json.loads(Path(folder, ABOUT).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _write_picture(clip: Clip, frames: Iterable[np.ndarray], folder: str, landmarks: Landmarks | None) -> int:
    """Images, masks and the picture of `sub_clip.mp4`, in one go through the frames."""
    width, height = clip.bucket.width, clip.bucket.height
    masks = MaskWriter(folder, width=width, height=height, landmarks=landmarks)
    os.mkdir(os.path.join(folder, "images"))
    with PieceWriter(_piece(folder), width=width, height=height, num_frames=clip.shot.num_frames) as writer:
        for number, frame_HWC in enumerate(frames):
            Path(folder, "images", frame_name(number)).write_bytes(png(frame_HWC))
            writer.write(frame_HWC[None])
            masks.see(frame_HWC)
    masks.finish()
    return masks.num_faces


def _add_sound(clip: Clip, reel: Reel, folder: str) -> None:
    sound = os.path.join(folder, "sound.m4a")
    write_aac(reel.sound(clip.shot), sound, rate=reel.rate, layout=reel.layout)
    join([(_piece(folder), clip.shot.num_frames)], sound, os.path.join(folder, "sub_clip.mp4"))
    os.remove(_piece(folder))
    os.remove(sound)


def _piece(folder: str) -> str:
    return os.path.join(folder, "piece.mp4")
