import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stableavatar.video.sheet import HEIGHT, ContactSheet
from tests.videos import LIFE, MOVING, Raw, write_raw


def frames_of(path: str) -> list[av.VideoFrame]:
    with av.open(path) as container:
        return list(container.decode(video=0))


def sheet_of(path: str, num_frames: int) -> Image.Image:
    sheet = ContactSheet(num_frames)
    for frame in frames_of(path):
        sheet.see(frame)
    return Image.open(io.BytesIO(sheet.jpeg()))


def test_four_frames_at_even_distances_stand_side_by_side(tmp_path: Path) -> None:
    black, white = "color=black:size=320x180:rate=25", "color=white:size=320x180:rate=25"
    path = write_raw(tmp_path / "a.mp4", Raw(shots=[(black, 1.0), (white, 1.0), (black, 2.0)]))
    picture = sheet_of(path, 100)
    width = round(320 * HEIGHT / 180)
    assert picture.size == (4 * width, HEIGHT)
    seen_HWC = np.asarray(picture)[:, width // 2 :: width]
    assert (seen_HWC.mean((0, 2)) > 128).tolist() == [False, True, False, False]


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_a_short_video_shows_what_it_has(tmp_path: Path, num_frames: int) -> None:
    path = write_raw(tmp_path / "a.mp4", Raw(shots=[(LIFE, num_frames / 25)], width=128, height=128))
    assert sheet_of(path, num_frames).size == (num_frames * HEIGHT, HEIGHT)


def test_a_sheet_is_small(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 2.0)], width=832, height=480))
    sheet = ContactSheet(50)
    for frame in frames_of(path):
        sheet.see(frame)
    assert len(sheet.jpeg()) < 40_000


def test_no_frames_no_sheet() -> None:
    with pytest.raises(ValueError, match="no frames"):
        ContactSheet(50).jpeg()
