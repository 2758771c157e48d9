"""What is looked at before a clip is trained on."""

import shutil
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from pipelines import storage
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.training.inspection import inspect_clip

NUM_FRAMES = 13


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("drawn"))
    return write_data_set(root, 1, size=(96, 64), num_frames=NUM_FRAMES)[0]


@pytest.fixture
def clip(drawn: str, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(drawn, tmp_path / "square/speech/one"))


def test_a_clip_says_what_it_is(clip: Path) -> None:
    found = inspect_clip(str(clip), NUM_FRAMES)
    assert (found.width, found.height, found.num_frames) == (96, 64, NUM_FRAMES)
    assert found.prompt == (Path(found.folder) / "prompt.txt").read_text().strip()
    (clip / "prompt.txt").unlink()
    assert inspect_clip(str(clip), 5).prompt == "A person is talking"


def test_a_clip_is_the_same_wherever_it_lies(drawn: str, clip: Path, bucket: str) -> None:
    here = inspect_clip(drawn, 5)
    for file in clip.rglob("*.*"):
        storage.publish(str(file), f"{bucket}/square/speech/one/{file.relative_to(clip)}")
    for folder in (str(clip), f"{bucket}/square/speech/one"):
        assert inspect_clip(folder, 5) == replace(here, folder=folder)
        assert inspect_clip(folder, 5).stamp == here.stamp


def test_what_changes_a_clip_changes_its_stamp(clip: Path) -> None:
    before = inspect_clip(str(clip), 5)
    Image.new("L", (96, 64), 255).save(clip / "lip_masks/frame_3.png")
    masked = inspect_clip(str(clip), 5)
    assert masked.recording == before.recording and masked.stamp != before.stamp
    _cut_sound(clip, NUM_FRAMES - 1)
    heard = inspect_clip(str(clip), 5)
    assert heard.recording != before.recording and heard.stamp not in (before.stamp, masked.stamp)
    (clip / "prompt.txt").write_text("A face")
    assert inspect_clip(str(clip), 5).stamp != heard.stamp != inspect_clip(str(clip), 5, missing_masks="ones").stamp


def _cut_sound(clip: Path, num_frames: int = 3) -> None:
    with wave.open(str(clip / "audio.wav"), "rb") as sound:
        parameters, data = sound.getparams(), sound.readframes(num_frames * 640)
    with wave.open(str(clip / "audio.wav"), "wb") as sound:
        sound.setparams(parameters)
        sound.writeframes(data)


def _whole_sound(clip: Path) -> None:
    with soundfile.SoundFile(clip / "audio.wav", "r+") as sound:
        sound.seek(0, soundfile.SEEK_END)
        sound.write(np.full(32_000, 0.1))


def _silence(clip: Path) -> None:
    with wave.open(str(clip / "audio.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(2 * 640 * NUM_FRAMES))


def _slower_sound(clip: Path) -> None:
    with wave.open(str(clip / "audio.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))


def _other_film(clip: Path, fps: int, num_frames: int) -> None:
    import av

    with av.open(str(clip / "sub_clip.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=fps)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(num_frames):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        film.mux(stream.encode())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "too short": (lambda clip: (clip / "images/frame_7.png").unlink(), "7 frames in images/, but a window takes 9"),
    "a mask is missing": (lambda clip: (clip / "lip_masks/frame_12.png").unlink(), "lip_masks/ has fewer masks"),
    "no masks": (lambda clip: shutil.rmtree(clip / "face_masks"), "face_masks/ has fewer masks"),
    "no sound": (lambda clip: (clip / "audio.wav").unlink(), "a clip without sound teaches nothing"),
    "short sound": (_cut_sound, "ends after 0.12 s, its 13 frames after 0.52 s"),
    "sound of the whole film": (
        _whole_sound,
        "lasts 2.52 s, and its 13 frames 0.52 s",
    ),
    "slow sound": (_slower_sound, "has 8000 Hz and 1 channels"),
    "broken sound": (lambda clip: (clip / "audio.wav").write_bytes(b"RIFF"), "audio.wav is no sound"),
    "other speed": (lambda clip: _other_film(clip, 30, 6), "30.000 frames per second, not 25"),
    "images of half the frames": (lambda clip: _other_film(clip, 25, 26), "has 26 frames, but images/ has 13"),
    "no numbers": (
        lambda clip: soundfile.write(clip / "audio.wav", np.full(640 * NUM_FRAMES, np.nan), 16_000, subtype="FLOAT"),
        "audio.wav holds samples that are not numbers",
    ),
    "silence": (_silence, "audio.wav is silence"),
    "no film": (lambda clip: (clip / "sub_clip.mp4").unlink(), "sub_clip.mp4 is missing"),
    "broken film": (lambda clip: (clip / "sub_clip.mp4").write_bytes(b"x" * 99), "sub_clip.mp4 is no video"),
    "prompt in other letters": (
        lambda clip: (clip / "prompt.txt").write_bytes("Ein Mädchen".encode("latin-1")),
        "prompt.txt is not UTF-8",
    ),
    "empty prompt": (lambda clip: (clip / "prompt.txt").write_text(" \n"), "prompt.txt is empty"),
    "broken picture": (lambda clip: (clip / "images/frame_0.png").write_bytes(b"x"), "frame_0.png is no picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_clip_that_cannot_be_trained_on_says_why(clip: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(clip)
    with pytest.raises(BadInput, match=r"one") as error:
        inspect_clip(str(clip), 9)
    assert message in str(error.value)


def test_images_may_lack_what_a_decoder_leaves_out_at_the_end(clip: Path) -> None:
    _other_film(clip, 25, NUM_FRAMES + 2)
    assert inspect_clip(str(clip), 9).num_frames == NUM_FRAMES
