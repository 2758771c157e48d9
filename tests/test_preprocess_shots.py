from pathlib import Path

import pytest

from stableavatar.errors import BadInput
from stableavatar.preprocess.footage import open_footage
from stableavatar.preprocess.shots import Shot, find_shots, shots_between, split
from tests.conftest import EXAMPLES
from tests.videos import BARS, LIFE, MOVING, Raw, write_raw


def lengths(shots: list[Shot]) -> list[int]:
    return [shot.num_frames for shot in shots]


@pytest.mark.parametrize("fps", ["25", "30000/1001", "50"])
def test_hard_cuts_are_found_to_the_frame(fps: str, tmp_path: Path) -> None:
    raw = Raw(shots=[(MOVING, 2), (BARS, 1), (LIFE, 1)], width=160, height=90, fps=fps)
    shots = find_shots(open_footage(write_raw(tmp_path / "a.mp4", raw)))
    assert [shot.first for shot in shots] == pytest.approx([0, 50, 75], abs=0 if fps != "30000/1001" else 1)
    assert shots[-1].stop == pytest.approx(100, abs=1)


def test_what_only_moves_is_one_shot(tmp_path: Path) -> None:
    assert len(find_shots(open_footage(write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 4)]))))) == 1
    assert len(find_shots(open_footage(f"{EXAMPLES}/video_de.mp4"))) == 1


def test_the_threshold_decides(tmp_path: Path) -> None:
    footage = open_footage(write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 1), (BARS, 1)])))
    assert (len(find_shots(footage, 10)), len(find_shots(footage, 90))) == (2, 1)


def test_shots_end_where_the_sound_ends(tmp_path: Path) -> None:
    raw = Raw(shots=[(MOVING, 2), (BARS, 2)], sound="sine=sample_rate=48000", sound_s=1.0)
    assert lengths(find_shots(open_footage(write_raw(tmp_path / "a.mkv", raw, acodec="pcm_s16le")))) == [25]


def test_a_damaged_frame_is_the_fault_of_the_file(tmp_path: Path) -> None:
    data = bytearray(Path(write_raw(tmp_path / "a.mp4", Raw(shots=[(MOVING, 2)]))).read_bytes())
    start = data.index(b"mdat") + len(data) // 3
    data[start : start + 3000] = bytes(3000)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(BadInput, match=r"a\.mp4"):
        find_shots(open_footage(f"{tmp_path}/a.mp4"))


@pytest.mark.parametrize(
    ("cuts", "first", "stop", "edges"),
    [
        ([], 0, 10, [(0, 10)]),
        ([4, 2], 0, 10, [(0, 2), (2, 4), (4, 10)]),
        ([0, 3, 10, 12], 3, 10, [(3, 10)]),
        ([5], 10, 10, []),
        ([5], 12, 10, []),
    ],
)
def test_shots_lie_between_cuts(cuts: list[int], first: int, stop: int, edges: list[tuple[int, int]]) -> None:
    assert [(shot.first, shot.stop) for shot in shots_between(cuts, first, stop)] == edges


def test_long_shots_become_equal_parts() -> None:
    shots = [Shot(first=10, stop=110), Shot(first=110, stop=411)]
    assert lengths(list(split(shots, 200))) == [100, 150, 151]
    assert list(split(shots, None)) == shots
    assert lengths(list(split(shots, 301))) == [100, 301]
