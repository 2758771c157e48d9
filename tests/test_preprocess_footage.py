from pathlib import Path

import numpy as np
import pytest

from stableavatar.errors import BadInput
from stableavatar.preprocess.footage import Footage, open_footage, read_footage
from stableavatar.preprocess.layout import BUCKETS, choose_bucket
from tests.conftest import EXAMPLES
from tests.videos import BARS, MOVING, Raw, change, write_raw

# A white disc in the middle, 200 pixels wide.
DISC = "color=black:size={width}x{height}:rate=25,geq=lum='255*lt(hypot(X-W/2,Y-H/2),100)':cb=128:cr=128"


def frames(footage: Footage, first: int = 0, stop: int = 5, bucket: str = "square") -> np.ndarray:
    (chosen,) = (each for each in BUCKETS if each.name == bucket)
    return np.stack(list(read_footage(footage, chosen, first, stop)))


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_raw(tmp_path_factory.mktemp("raw") / "bars.mp4", Raw(shots=[(BARS, 1)]))


@pytest.mark.parametrize("fps", ["25", "30000/1001", "50", "24", "10"])
def test_a_second_is_25_frames_whatever_the_rate_was(fps: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 2)], width=64, height=64, fps=fps))
    footage = open_footage(path)
    assert (footage.first, footage.sound_stop) == (0, 50)
    assert frames(footage, 0, 99).shape == (50, 512, 512, 3)


def test_frames_of_a_span_are_those_of_the_whole(tmp_path: Path) -> None:
    footage = open_footage(write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 1)], fps="30000/1001")))
    whole = frames(footage, 0, 25)
    assert (frames(footage, 7, 12) == whole[7:12]).all()
    assert (np.abs(np.diff(whole.astype(int), axis=0)).max(axis=(1, 2, 3)) > 0).sum() >= 23  # it moves


@pytest.mark.parametrize("bucket", ["square", "rec", "vec"])
def test_a_picture_covers_its_bucket_and_is_never_squeezed(bucket: str, tmp_path: Path) -> None:
    disc = DISC.format(width=640, height=400)
    footage = open_footage(write_raw(tmp_path / "a.mp4", Raw(shots=[(disc, 1)], width=0)))
    inside_HW = frames(footage, bucket=bucket)[0].mean(axis=2) > 128
    rows, columns = np.flatnonzero(inside_HW.any(axis=1)), np.flatnonzero(inside_HW.any(axis=0))
    height, width = inside_HW.shape
    assert len(rows) == pytest.approx(len(columns), abs=3)  # still round
    assert (rows.mean(), columns.mean()) == (pytest.approx(height / 2, abs=1.5), pytest.approx(width / 2, abs=1.5))
    assert len(rows) == pytest.approx(200 * max(width / 640, height / 400), abs=3)


@pytest.mark.parametrize(
    ("size", "aspect", "bucket"),
    [((640, 360), None, "rec"), ((360, 640), None, "vec"), ((300, 300), None, "square"), ((300, 300), "16/9", "rec")],
)
def test_wide_and_tall_by_what_is_seen(size: tuple[int, int], aspect: str | None, bucket: str, tmp_path: Path) -> None:
    words = {"aspect": aspect} if aspect else {}
    path = write_raw(tmp_path / "a.mp4", Raw(shots=[(BARS, 1)], width=size[0], height=size[1]), **words)
    footage = open_footage(path)
    chosen = choose_bucket(footage.width, footage.height)
    assert chosen.name == bucket
    assert frames(footage, bucket=bucket).shape == (5, chosen.height, chosen.width, 3)


def test_a_film_that_lies_on_its_side_is_put_upright(bars: str, tmp_path: Path) -> None:
    upright = open_footage(bars)
    turned = open_footage(change(bars, tmp_path / "turned.mp4", "display_rotation", "90"))
    assert (turned.width, turned.height) == (upright.height, upright.width)
    errors = np.abs(frames(turned)[0].astype(int) - np.rot90(frames(upright)[0]))
    assert errors.mean() < 2


def test_colours_are_what_the_film_says_they_are(bars: str, tmp_path: Path) -> None:
    told = change(bars, tmp_path / "told.mp4", **{"bsf:v": "h264_metadata=matrix_coefficients=1"})  # BT.709
    frame = frames(open_footage(told), bucket="rec")[0].astype(int)
    # The bars in the middle third at 75%: yellow, cyan, green, magenta, red, blue.
    found = [tuple(frame[100, x]) for x in (235, 322, 410, 500, 590, 670)]
    wanted = [(191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191)]
    assert np.abs(np.array(found) - np.array(wanted)).max() < 10


def test_there_is_nothing_where_sound_or_picture_is_missing(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.mp4", Raw(shots=[(BARS, 4)], sound_s=2.0))
    assert open_footage(path).sound_stop == pytest.approx(50, abs=1)
    late = change(path, tmp_path / "late.mkv", "itsoffset", "1")
    assert open_footage(late).first == 0  # both are late


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.mp4", r"text\.mp4 is not a video that can be decoded"),
        ("mute.mp4", r"mute\.mp4 has no audio stream"),
        ("sound.m4a", r"sound\.m4a has no picture"),
        ("list.m3u8", "is not a video that can be decoded"),
        ("none.mp4", r"none\.mp4.*No such file"),
    ],
)
def test_what_is_no_video_with_sound_is_refused(name: str, message: str, bars: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{bars}\n")
    if name == "mute.mp4":
        change(bars, tmp_path / name, an=None)
    if name == "sound.m4a":
        change(bars, tmp_path / name, vn=None)
    with pytest.raises(BadInput, match=message):
        open_footage(str(tmp_path / name))


def test_damage_ends_the_frames(bars: str, tmp_path: Path) -> None:
    data = bytearray(Path(write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 4)]), movflags="faststart")).read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 2000, 7):
        data[place] ^= 0x5A
    (tmp_path / "damaged.mp4").write_bytes(data)
    with pytest.raises(BadInput, match=r"damaged\.mp4"):
        frames(open_footage(f"{tmp_path}/damaged.mp4"), 0, 100)


def test_a_real_film_of_2997_frames_a_second() -> None:
    footage = open_footage(f"{EXAMPLES}/video_de.mp4")
    assert (footage.width, footage.height, footage.first) == (480, 832, 0)
    assert frames(footage, 0, 3, "vec").shape == (3, 832, 480, 3)
