from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

from stableavatar.preprocess.footage import open_footage, read_footage
from stableavatar.preprocess.layout import BUCKETS
from stableavatar.preprocess.reel import Reel, Tape
from stableavatar.preprocess.shots import Shot
from tests.videos import MOVING, Raw, change, write_raw

SQUARE = BUCKETS[0]
# Nothing for two seconds, then a tone: as the picture, which is black and then white.
LATE_TONE = r"aevalsrc=if(gte(t\,2)\,0.5*sin(2000*t)\,0):s=48000"
BLACK, WHITE = ("color=black:size=64x64:rate=25", 2), ("color=white:size=64x64:rate=25", 2)


def chunks(*lengths: int) -> Generator[np.ndarray]:
    start = 0
    for length in lengths:
        yield np.arange(start, start + length, dtype=np.float32)[:, None]
        start += length


@pytest.mark.parametrize("lengths", [(10,), (1,) * 10, (3, 0, 4, 3), (9, 1)])
def test_parts_of_a_tape(lengths: tuple[int, ...]) -> None:
    tape = Tape(chunks(*lengths), 1)
    assert np.concatenate(list(tape.part(2, 5)))[:, 0].tolist() == [2, 3, 4]
    assert np.concatenate(list(tape.part(5, 6)))[:, 0].tolist() == [5]
    assert np.concatenate(list(tape.part(8, 13)))[:, 0].tolist() == [8, 9, 0, 0, 0]
    assert np.concatenate(list(tape.part(20, 22)))[:, 0].tolist() == [0, 0]


def test_shots_come_one_after_another_and_some_are_left_out(tmp_path: Path) -> None:
    footage = open_footage(write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 2)], width=64, height=64)))
    whole = np.stack(list(read_footage(footage, SQUARE, 0, 50)))
    with Reel(footage, SQUARE, 5, 50) as reel:
        first, unseen, half, last = (Shot(first=a, stop=b) for a, b in ((5, 8), (8, 20), (20, 30), (30, 50)))
        assert (np.stack(list(reel.frames(first))) == whole[5:8]).all()
        assert sum(map(len, reel.speech(unseen))) == 12 * 640
        next(reel.frames(half))  # who takes only some of them disturbs nobody
        assert (np.stack(list(reel.frames(last))) == whole[30:]).all()
        assert sum(map(len, reel.speech(last))) == 20 * 640
        assert sum(map(len, reel.sound(last))) == 20 * 48_000 / 25


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts"])
def test_sound_and_picture_stay_together_also_where_a_film_was_cut_by_copying(name: str, tmp_path: Path) -> None:
    codec = {"acodec": "pcm_s16le"} if name == "a.mov" else {"acodec": "aac"}
    path = write_raw(tmp_path / name, Raw(shots=[BLACK, WHITE], sound=LATE_TONE), **codec, g=25)
    for each in (path, change(path, tmp_path / f"cut_{name}", "ss", "0.7")):
        footage = open_footage(each)
        with Reel(footage, SQUARE, 0, footage.sound_stop) as reel:
            shot = Shot(first=0, stop=footage.sound_stop)
            white = next(n for n, frame in enumerate(reel.frames(shot)) if frame.mean() > 128)
            samples = np.concatenate(list(reel.speech(shot)))[:, 0]
        heard = np.flatnonzero(np.abs(samples) > 0.1)[0] / 640
        assert heard == pytest.approx(white, abs=0.6), each
