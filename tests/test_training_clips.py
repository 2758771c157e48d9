import gc
import shutil
import tarfile
import tempfile
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import storage
from stableavatar.audio.decode import decode_speech
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.training import places
from stableavatar.training.clips import find_clips, read_window
from stableavatar.training.inspection import inspect_clip

NUM_FRAMES = 13
ONE = f"train_64x64_{NUM_FRAMES}_000000"  # the name of the square clip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for size in ((64, 64), (96, 64)):
        write_data_set(str(root), 1, size=size, num_frames=NUM_FRAMES)
    return root


@pytest.fixture
def clip(drawn: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copytree(drawn / "square/speech" / ONE, tmp_path / "square/speech/one"))


def test_clips_are_found_by_the_lists_of_a_root(drawn: Path) -> None:
    folders = find_clips([str(drawn)])
    assert [Path(folder).parent.parent.name for folder in folders] == ["rec", "square"]
    assert find_clips([str(drawn / "video_rec_path.txt")]) == folders[:1]
    with pytest.raises(BadInput, match="holds none of video_square_path"):
        find_clips([str(drawn / "square")])


def test_a_clip_has_one_name_however_it_is_written(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = find_clips([str(drawn)])
    monkeypatch.chdir(drawn)
    for root in (".", f"file://{drawn}/", f"{drawn}/rec/.."):
        assert find_clips([root]) == folders
    listed = drawn / "mine.txt"
    listed.write_text(f"./square/speech/{ONE}/\nsquare/../square/speech/{ONE}\n{drawn}/square/speech/{ONE}\n")
    assert find_clips(["mine.txt"]) == folders[1:]
    moved = tmp_path / "moved"
    shutil.copytree(drawn, moved)
    assert find_clips([str(moved)]) == [folder.replace(str(drawn), str(moved)) for folder in folders]


def test_a_list_in_other_letters_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes("/clips/Mädchen\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"mine\.txt is not UTF-8.*Save it"):
        find_clips([str(tmp_path / "mine.txt")])
    (tmp_path / "mine.txt").write_text("/clips/Mädchen\n", "utf-8-sig")  # as some editors do
    assert find_clips([str(tmp_path / "mine.txt")]) == ["/clips/Mädchen"]


def test_a_window_is_consecutive_frames_with_their_sound(clip: Path) -> None:
    window = read_window(inspect_clip(str(clip), 5), 4, 5)
    frames = [np.asarray(Image.open(clip / f"images/frame_{number}.png")) for number in (0, 4, 8)]
    assert np.array_equal(window.reference_HWC, frames[0])
    assert np.array_equal(window.frames_VHWC[[0, 4]], frames[1:]) and len(window.frames_VHWC) == 5
    with wave.open(str(clip / "audio.wav")) as sound:
        samples = np.frombuffer(sound.readframes(NUM_FRAMES * 640), "<i2") / 32768
    np.testing.assert_allclose(window.speech, samples[4 * 640 : 9 * 640], atol=1e-6)
    np.testing.assert_allclose(np.clip(samples * window.gain, -1, 1), decode_speech(f"{clip}/audio.wav"), atol=1e-4)
    lips = np.asarray(Image.open(clip / "lip_masks/frame_6.png"))
    assert np.array_equal(window.masks_VHW["lip_masks"][2], lips) and lips.max() == 255


def test_missing_masks_cover_everything_only_if_one_says_so(clip: Path) -> None:
    whole = inspect_clip(str(clip), 9)
    shutil.rmtree(clip / "lip_masks")
    allowed = inspect_clip(str(clip), 9, missing_masks="ones")
    assert read_window(allowed, 0, 9).masks_VHW["lip_masks"].min() == 255
    with pytest.raises(BadInput, match="has gone since"):
        read_window(whole, 0, 9)


def test_a_picture_that_goes_or_breaks_later_is_bad_input(clip: Path) -> None:
    found = inspect_clip(str(clip), 9)
    (clip / "images/frame_5.png").write_bytes(b"x")
    with pytest.raises(BadInput, match="is no picture"):
        read_window(found, 0, 9)
    (clip / "images/frame_5.png").unlink()
    with pytest.raises(BadInput, match="has gone"):
        read_window(found, 0, 9)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_clips_in_a_tar_are_the_same_clips(
    drawn: Path, tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if where == "local" else request.getfixturevalue("bucket")
    path = tmp_path / "shard-0.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(drawn / "square/speech" / ONE, f"speech/{ONE}")
    if where == "s3":
        storage.publish(str(path), f"{root}/shard-0.tar")
    folders = find_clips([root])
    assert folders == find_clips([f"{root}/shard-0.tar"]) and len(folders) == 1
    found, plain = (inspect_clip(folder, 9) for folder in (folders[0], str(drawn / "square/speech" / ONE)))
    assert found.id == ONE and found == replace(plain, folder=folders[0])
    window, expected = read_window(found, 2, 9), read_window(plain, 2, 9)
    assert np.array_equal(window.frames_VHWC, expected.frames_VHWC)
    assert np.array_equal(window.speech, expected.speech)
    assert np.array_equal(window.masks_VHW["lip_masks"], expected.masks_VHW["lip_masks"])


def test_copies_of_tars_in_a_store_go_with_the_last_that_is_open(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub_clip.mp4").write_bytes(b"film")
    for number in range(4):
        with tarfile.open(tmp_path / "one.tar", "w") as tar:
            tar.add(tmp_path / "sub_clip.mp4", f"clip-{number}/sub_clip.mp4")
        storage.publish(str(tmp_path / "one.tar"), f"{bucket}/shard-{number}.tar")
    monkeypatch.setattr(places, "NUM_OPEN", 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    for folder in 2 * find_clips([bucket]):
        files, path = places.open_store(folder)
        assert files.cat_file(f"{path}/sub_clip.mp4") == b"film"
        assert len([*(tmp_path / "copies").iterdir()]) <= 2
    del files
    vars(places._kept).clear()
    gc.collect()
    assert [*(tmp_path / "copies").iterdir()] == []


def test_a_broken_tar_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "shard.tar").write_bytes(b"no tar" * 999)
    with pytest.raises(BadInput, match="cannot be read as a tar file"):
        find_clips([str(tmp_path)])
