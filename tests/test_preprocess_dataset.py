import os
from collections.abc import Iterator
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.errors import BadInput
from stableavatar.preprocess.clip import read_about
from stableavatar.preprocess.dataset import KEPT, MADE, SKIPPED, Outcome, prepare_video
from stableavatar.preprocess.rules import Rules
from tests.meshes import mesh
from tests.videos import BARS, LIFE, MOVING, Raw, write_raw

RULES = Rules(category="singing")
# A take, one that is too short, and another one without a sound.
SHOTS = [(MOVING, 3.4), (LIFE, 1.0), (BARS, 3.3)]
TONE_THEN_SILENCE = r"aevalsrc=if(lt(t\,4.4)\,0.5*sin(2000*t)\,0):s=48000"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    raw = Raw(shots=SHOTS, width=64, height=64, sound=TONE_THEN_SILENCE)
    return write_raw(tmp_path_factory.mktemp("raw") / "a.mkv", raw, acodec="pcm_s16le")


def prepare(path: str, root: Path, **words: object) -> list[Outcome]:
    return prepare_video(path, "ab", str(root), RULES, **words)  # type: ignore[arg-type]


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Which file each path is, and when it was written."""
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in root.rglob("*") if file.is_file()}


def test_each_shot_is_made_or_its_reason_is_told_and_a_second_run_keeps_all(path: str, tmp_path: Path) -> None:
    first, short, silent = prepare(path, tmp_path)
    assert (first.status, first.start_s, first.num_frames, first.bucket) == (MADE, 0.0, 85, "square")
    assert os.path.dirname(first.folder) == f"{tmp_path}/square/singing"
    assert (short.status, short.num_frames, short.error_kind) == (SKIPPED, 25, "bad_input")
    assert short.reason == "3.40 to 4.40 s: a shot of 25 frames is too short; a clip has at least 81."
    assert silent.status == SKIPPED
    assert silent.reason.startswith("4.40 to 7.72 s: its sound is silence.")
    assert os.listdir(tmp_path / "square" / "singing") == [os.path.basename(first.folder)]
    assert os.listdir(tmp_path / ".unfinished") == []

    before = stamps(tmp_path)
    assert len(before) == 3 * 85 + 3
    assert [outcome.status for outcome in prepare(path, tmp_path)] == [KEPT, SKIPPED, SKIPPED]
    assert stamps(tmp_path) == before


def find_middle(frame_HWC: np.ndarray) -> np.ndarray | None:
    return mesh()


def find_nobody(frame_HWC: np.ndarray) -> np.ndarray | None:
    return None


@pytest.fixture(scope="module")
def short_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_raw(tmp_path_factory.mktemp("raw") / "b.mp4", Raw(shots=[(MOVING, 3.24)], width=64, height=64))


def test_masks_of_faces_take_the_place_of_all_ones_but_not_the_other_way(short_path: str, tmp_path: Path) -> None:
    (ones,) = prepare(short_path, tmp_path)
    (nobody,) = prepare(short_path, tmp_path, landmarks=find_nobody, masks="m1")
    assert (ones.num_faces, nobody.status) == (None, SKIPPED)
    assert "only 0 of 81 frames show a face" in nobody.reason
    assert f"stays in {ones.folder}" in nobody.reason
    assert (read_about(ones.folder) or {})["masks"] == "ones"

    (drawn,) = prepare(short_path, tmp_path, landmarks=find_middle, masks="m1")
    assert (drawn.status, drawn.folder, drawn.num_faces) == (MADE, ones.folder, 81)
    assert (read_about(ones.folder) or {})["masks"] == "m1"
    assert [outcome.status for outcome in prepare(short_path, tmp_path)] == [KEPT]
    assert os.listdir(tmp_path / ".unfinished") == []


def test_what_was_interrupted_is_nowhere_to_be_seen(short_path: str, tmp_path: Path) -> None:
    calls: Iterator[int] = iter(range(9))

    def find(frame_HWC: np.ndarray) -> np.ndarray | None:
        if next(calls) == 8:
            raise KeyboardInterrupt
        return mesh()

    with pytest.raises(KeyboardInterrupt):
        prepare(short_path, tmp_path, landmarks=find, masks="m1")
    assert not list(tmp_path.rglob("*.png"))
    assert not (tmp_path / "square").exists()


def test_long_shots_become_several_clips(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "long.mp4", Raw(shots=[(MOVING, 6.6)], width=64, height=64))
    outcomes = prepare_video(path, "ab", f"{tmp_path}/root", Rules(max_frames=162))
    assert [(outcome.status, outcome.start_s, outcome.num_frames) for outcome in outcomes] == [
        *((MADE, 0.0, 82), (MADE, 3.28, 83)),
    ]


def test_a_video_whose_sound_and_picture_never_meet(tmp_path: Path) -> None:
    raw = Raw(shots=[(BARS, 1)], width=64, height=64)
    early = write_raw(tmp_path / "a.mkv", raw, acodec="pcm_s16le")
    with pytest.raises(BadInput, match="no moment with both picture and sound"):
        prepare(apart(early, tmp_path), tmp_path)


def apart(path: str, folder: Path) -> str:
    """The sound of a video, and its picture two seconds later."""
    out = f"{folder}/apart.mkv"
    picture, sound = ffmpeg.input(path, itsoffset=2)["v"], ffmpeg.input(path)["a"]
    stream = ffmpeg.output(picture, sound, out, codec="copy", loglevel="error")
    stream.run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    return out
