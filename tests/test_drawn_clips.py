import json
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stableavatar.drawn.clips import check_clip, clip_folders, write_clip, write_data_set
from stableavatar.drawn.measure import mouth_opening
from stableavatar.errors import BadInput
from stableavatar.units import SAMPLES_PER_FRAME

NUM_FRAMES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "one"
    write_clip(str(path), 5, num_frames=NUM_FRAMES)
    return path


def read(folder: Path, kind: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / kind / f"frame_{n}.png")) for n in range(NUM_FRAMES)])


def test_the_published_layout(folder: Path) -> None:
    names = {"sub_clip.mp4", "audio.wav", "images", "face_masks", "lip_masks", "truth.json", "prompt.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert len(list((folder / "images").iterdir())) == NUM_FRAMES
    assert read(folder, "images").shape == (NUM_FRAMES, 96, 96, 3)
    for kind in ("face_masks", "lip_masks"):
        masks = read(folder, kind)
        assert masks.shape == (NUM_FRAMES, 96, 96)
        assert set(np.unique(masks)) == {0, 255}
    with wave.open(str(folder / "audio.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16_000, 1, 2)
        assert sound.getnframes() == NUM_FRAMES * SAMPLES_PER_FRAME
    assert (folder / "prompt.txt").read_text().strip().endswith(".")


def test_the_film_shows_the_pictures_and_is_as_long_as_its_sound(folder: Path) -> None:
    with av.open(str(folder / "sub_clip.mp4")) as film:
        video, audio = film.streams.video[0], film.streams.audio[0]
        assert video.average_rate == 25
        for stream in (video, audio):
            assert stream.duration is not None and stream.time_base is not None
            assert float(stream.duration * stream.time_base) == pytest.approx(NUM_FRAMES / 25, abs=1e-3)
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
    assert np.abs(frames.astype(int) - read(folder, "images")).mean() < 3


def test_the_truth_fits_the_pictures(folder: Path) -> None:
    truth = json.loads((folder / "truth.json").read_text())
    assert len(truth["mouth_opening"]) == len(truth["mouth_width"]) == NUM_FRAMES
    assert np.corrcoef(truth["mouth_opening"], mouth_opening(read(folder, "images")))[0, 1] > 0.99
    assert (truth["seed"], truth["split"]) == (5, "train")
    assert truth["text"]
    assert truth["voice"]["language"]
    assert all(start_s < end_s for _, start_s, end_s in truth["phonemes"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_clip(str(tmp_path / "again"), 5, num_frames=NUM_FRAMES)
    assert contents(tmp_path / "again") == contents(folder)
    write_clip(str(tmp_path / "other"), 6, num_frames=NUM_FRAMES)
    assert contents(tmp_path / "other")["audio.wav"] != contents(folder)["audio.wav"]


def test_a_data_set_is_listed_and_finished_clips_stay(tmp_path: Path) -> None:
    (tmp_path / "square" / "speech" / "x.unfinished-1").mkdir(parents=True)
    folders = write_data_set(str(tmp_path), 2, 10, "held-out", num_frames=4)
    listed = (tmp_path / "video_square_path.txt").read_text().splitlines()
    assert folders == clip_folders(str(tmp_path), 2, 10, "held-out", (96, 96), 4)
    assert [f"{tmp_path}/{line}" for line in listed] == folders  # a folder that is moved keeps its lists
    assert all(Path(folder).parts[-3:-1] == ("square", "speech") for folder in folders)
    Path(folders[0], "mark").touch()
    more = write_data_set(str(tmp_path), 3, 10, "held-out", num_frames=4)
    assert more[:2] == folders
    assert Path(folders[0], "mark").exists()
    assert len((tmp_path / "video_square_path.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize(("size", "shape"), [((96, 64), "rec"), ((64, 96), "vec")])
def test_wide_and_tall(size: tuple[int, int], shape: str, tmp_path: Path) -> None:
    (folder,) = write_data_set(str(tmp_path), 1, size=size, num_frames=3)
    assert (tmp_path / f"video_{shape}_path.txt").read_text() == f"{Path(folder).relative_to(tmp_path)}\n"
    assert Image.open(Path(folder) / "images" / "frame_0.png").size == size


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("stableavatar.drawn.clips._write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        write_clip(str(tmp_path / "one"), 1, num_frames=2)
    assert list(tmp_path.iterdir()) == []


def test_what_no_clip_can_be() -> None:
    with pytest.raises(BadInput, match="train, held-out"):
        check_clip("test", (96, 96), 81)
    with pytest.raises(BadInput, match="97x96"):
        check_clip("train", (97, 96), 81)
    with pytest.raises(BadInput, match="0 frames"):
        check_clip("train", (96, 96), 0)
