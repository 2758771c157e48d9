import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stableavatar.errors import BadInput
from stableavatar.preprocess.clip import Clip, read_about, write_audio, write_clip
from stableavatar.preprocess.footage import open_footage, read_footage
from stableavatar.preprocess.layout import BUCKETS
from stableavatar.preprocess.masks import Landmarks
from stableavatar.preprocess.reel import Reel
from stableavatar.preprocess.shots import Shot
from stableavatar.video.quality import check_contract, measure_video
from tests.meshes import mesh
from tests.videos import MOVING, SILENCE, Raw, write_raw

SQUARE = BUCKETS[0]


def write(path: str, folder: Path, landmarks: Landmarks | None = None) -> int:
    shot = Shot(first=5, stop=25)
    folder.mkdir()
    clip = Clip(video_sha256="ab", shot=shot, bucket=SQUARE, masks="ones")
    with Reel(open_footage(path), SQUARE, shot.first, shot.stop) as reel:
        return write_clip(clip, reel, str(folder), landmarks)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_raw(tmp_path_factory.mktemp("raw") / "a.mp4", Raw(shots=[(MOVING, 1)]))


def test_a_clip_has_everything_of_the_layout(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    assert write(path, folder) == 0
    names = ["audio.wav", "clip.json", "face_masks", "images", "lip_masks", "sub_clip.mp4"]
    assert sorted(entry.name for entry in folder.iterdir()) == names
    for name in ("images", "face_masks", "lip_masks"):
        assert {file.name for file in (folder / name).iterdir()} == {f"frame_{number}.png" for number in range(20)}
    with wave.open(f"{folder}/audio.wav") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        assert file.getnframes() == 20 * 640
    check_contract(measure_video(f"{folder}/sub_clip.mp4"), num_frames=20, width=512, height=512)
    assert read_about(str(folder)) == {"video_sha256": "ab", "first_frame": 5, "num_frames": 20, "masks": "ones"}


def test_images_are_the_frames_and_frame_0_is_the_first(path: str, tmp_path: Path) -> None:
    write(path, tmp_path / "clip")
    found = [np.asarray(Image.open(f"{tmp_path}/clip/images/frame_{number}.png")) for number in range(20)]
    wanted = np.stack(list(read_footage(open_footage(path), SQUARE, 5, 25)))
    assert (np.stack(found) == wanted).all()


@pytest.mark.parametrize(("num_faces", "is_enough"), [(20, True), (10, True), (9, False), (0, False)])
def test_half_of_the_frames_must_show_a_face(num_faces: int, is_enough: bool, path: str, tmp_path: Path) -> None:
    known = iter([mesh()] * num_faces + [None] * 20)

    def find(frame_HWC: np.ndarray) -> np.ndarray | None:
        return next(known)

    if is_enough:
        assert write(path, tmp_path / "clip", find) == num_faces
        assert np.asarray(Image.open(f"{tmp_path}/clip/lip_masks/frame_19.png")).mean() < 10
        return
    with pytest.raises(BadInput, match=f"only {num_faces} of 20 frames show a face"):
        write(path, tmp_path / "clip", find)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "libopus"])
def test_silence_is_refused_before_a_frame_is_written(codec: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.mkv", Raw(shots=[(MOVING, 1)], sound=SILENCE), acodec=codec)
    with pytest.raises(BadInput, match="silence"):
        write(path, tmp_path / "clip")
    assert not (tmp_path / "clip" / "images").exists()


def test_a_sound_is_cut_at_full_scale(tmp_path: Path) -> None:
    samples = np.array([[0.0], [0.5], [-2.0], [2.0]], np.float32)
    assert write_audio([samples[:2], samples[2:]], f"{tmp_path}/a.wav") == 3
    with wave.open(f"{tmp_path}/a.wav") as file:
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [0, 16_384, -32_768, 32_767]


def test_where_no_clip_is_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert read_about(str(tmp_path)) is None
    (tmp_path / "clip.json").write_text("{")
    assert read_about(str(tmp_path)) is None
