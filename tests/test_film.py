import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from stableavatar.audio.decode import encode_sound
from stableavatar.errors import BadInput
from stableavatar.video.film import Film, _header, copy_frames, open_film, read_frames
from stableavatar.video.writer import KEY_DISTANCE, PieceWriter, join
from tests.media import video_writer, write_tone
from tests.videos import frame_hashes

SIZE = 64
NUM_FRAMES = 120


def pictures(num_frames: int) -> np.ndarray:
    """A blurred pattern that moves, and a cut to another one in the middle."""
    x = np.arange(SIZE)[None, :, None] / 9 + np.arange(SIZE)[:, None, None] / 13 + np.arange(3)
    frames = [127 + 100 * np.sin(x + n / 10 + 2 * (n > num_frames // 2)) for n in range(num_frames)]
    return np.stack(frames).astype(np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("film")
    write_tone(folder / "a.wav", duration_s=NUM_FRAMES / 25)
    encode_sound(str(folder / "a.wav"), str(folder / "a.m4a"), duration_s=NUM_FRAMES / 25)
    video, sound = f"{folder}/a.mp4", f"{folder}/a.m4a"
    with video_writer(video, sound_path=sound, width=SIZE, height=SIZE, num_frames=NUM_FRAMES) as writer:
        writer.write(pictures(NUM_FRAMES))
    return video


@pytest.fixture(scope="module")
def film(path: str) -> Film:
    return open_film(path)


def test_a_size_that_is_not_wanted_is_refused_before_anything_is_encoded(path: str) -> None:
    before = _header.cache_info().misses
    with pytest.raises(BadInput, match="has 64x64 pixels, but this row's video has 64x128"):
        open_film(path, (64, 128))
    assert _header.cache_info().misses == before
    assert _header.cache_info().maxsize


def test_a_film_can_be_cut_at_least_every_two_seconds(film: Film) -> None:
    assert (film.width, film.height, film.num_frames) == (SIZE, SIZE, NUM_FRAMES)
    assert film.keys[0] == 0 and film.keys[-1] == NUM_FRAMES
    assert max(np.diff(film.keys)) <= KEY_DISTANCE
    assert film.cut_around(film.keys[1], film.keys[1] + 1) == film.keys[1:3]
    assert set(film.keys) <= set(film.ends)
    assert max(np.diff(film.ends)) <= 4  # a picture that others lead to, and three that lead to it


@pytest.mark.parametrize(("first", "stop"), [(0, 1), (3, 9), (49, 52), (70, 120), (119, 120), (0, 120)])
def test_frames_are_those_that_were_written(film: Film, first: int, stop: int) -> None:
    found = np.stack(list(read_frames(film, first, stop))).astype(int)
    assert found.shape == (stop - first, SIZE, SIZE, 3)
    errors = np.abs(found - pictures(NUM_FRAMES)[first:stop]).mean(axis=(1, 2, 3))
    assert errors.max() < 3  # the frame before differs by more than 5


@pytest.mark.parametrize("wanted", [(50, 70), (33, 34), (61, 99), (1, 119)])
def test_copied_pieces_beside_new_ones_keep_every_frame(
    film: Film, path: str, tmp_path: Path, wanted: tuple[int, int]
) -> None:
    first, stop = film.cut_around(*wanted)
    assert wanted[0] - 4 < first <= wanted[0] and wanted[1] <= stop <= NUM_FRAMES
    for name, run in (("0", (0, first)), ("2", (stop, NUM_FRAMES))):
        if run[0] < run[1]:
            copy_frames(film, *run, str(tmp_path / f"{name}.mp4"))
    with PieceWriter(str(tmp_path / "1.mp4"), width=SIZE, height=SIZE, num_frames=stop - first) as writer:
        writer.write(255 - pictures(NUM_FRAMES)[first:stop])
    nums = enumerate((first, stop - first, NUM_FRAMES - stop))
    pieces = [(str(tmp_path / f"{n}.mp4"), num) for n, num in nums if num]
    join(pieces, path, str(tmp_path / "video.mp4"))
    old, new = frame_hashes(Path(path)), frame_hashes(tmp_path / "video.mp4")
    assert len(new) == NUM_FRAMES
    assert [n for n in range(NUM_FRAMES) if old[n] != new[n]] == list(range(first, stop))
    assert open_film(str(tmp_path / "video.mp4")).num_frames == NUM_FRAMES  # and can be corrected again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c:v", "libx264", "-bf", "0", "-refs", "1", "-c:a", "copy"], "not encoded as this program does it now"),
        (["-c:v", "libx264", "-vf", "scale=48:48", "-profile:v", "baseline", "-c:a", "copy"], "not encoded as this"),
        (["-c:v", "mpeg4", "-c:a", "copy"], "not encoded as this program does it now"),
        (["-c:v", "copy", "-an"], "no picture or no sound"),
        (["-vn", "-c:a", "copy"], "no picture or no sound"),
        (["-c", "copy", "-bsf:v", "setts=pts=PTS*2:dts=DTS*2"], "a frame at each 1/25 s"),
    ],
)
def test_a_video_of_another_making_is_refused(path: str, tmp_path: Path, options: list[str], message: str) -> None:
    other = str(tmp_path / "other.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, *options, other]
    subprocess.run(command, check=True)
    with pytest.raises(BadInput, match=message):
        open_film(other)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(BadInput, match=r"a\.mp4 cannot be read as a video"):
        open_film(str(tmp_path / "a.mp4"))
