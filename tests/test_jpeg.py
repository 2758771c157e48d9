from pathlib import Path

import pytest
from PIL import Image

from stableavatar.video.jpeg import MAX_SCANS, num_scans
from tests.bad_inputs import scans


@pytest.mark.parametrize(("progressive", "count"), [(False, 1), (True, 10)])
def test_scans_are_counted(tmp_path: Path, progressive: bool, count: int) -> None:
    Image.effect_noise((640, 480), 90).convert("RGB").save(tmp_path / "a.jpg", progressive=progressive)
    assert num_scans(str(tmp_path / "a.jpg")) == count


def test_what_other_segments_or_the_rest_of_the_file_hold_does_not_count(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg", comment=b"\xff\xda" * 1000)
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"\xff\xda" * 1000)
    assert num_scans(str(tmp_path / "a.jpg")) == 1


def test_counting_ends_past_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(scans(5000))
    assert num_scans(str(tmp_path / "a.jpg")) == MAX_SCANS + 1
