from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.draw_data import draw_row
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput


def test_clips_of_many_seeds_and_what_is_there_stays(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["draw-data", str(tmp_path), "--clips", "3", "--seed", "7", "--split", "held-out", "--frames", "4"]
    assert main([*words, "--size", "64x48", "--workers", "2"]) == 0
    folders = (tmp_path / "video_rec_path.txt").read_text().splitlines()
    assert [folder.rpartition("_")[2] for folder in folders] == ["000007", "000008", "000009"]
    assert all(len(list((tmp_path / folder / "images").iterdir())) == 4 for folder in folders)
    (tmp_path / folders[1] / "mark").touch()
    assert main([*words, "--size", "64x48"]) == 0
    assert (tmp_path / folders[1] / "mark").exists()
    assert "3 clips asked for" in capsys.readouterr().out


def test_a_clip_that_cannot_be_written_is_told_and_the_others_are_made(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "square" / "speech" / "train_96x96_2_000001"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    assert main(["draw-data", str(tmp_path), "--clips", "2", "--frames", "2"]) == 2
    assert "train_96x96_2_000001" in capsys.readouterr().err
    assert "train_96x96_2_000000" in (tmp_path / "video_square_path.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "97x96"], "even sides"),
        (["--size", "96"], "is no size; write 96x96"),
        (["--seed", "-1"], "not a whole number from 0"),
        (["--split", "test"], "invalid choice"),
    ],
)
def test_wrong_words(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["draw-data", str(tmp_path), "--clips", "1", *words]
    try:
        code = main(command)
    except SystemExit as exit:
        code = int(str(exit.code))
    assert code == 1
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_store_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw-data", "s3://bucket/data", "--clips", "1"]) == 1
    assert "not a local folder" in capsys.readouterr().err


def test_clips_of_two_splits_never_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data_set(str(tmp_path), 1, size=(64, 48), num_frames=2)
    assert main(["draw-data", str(tmp_path), "--clips", "1", "--split", "held-out"]) == 1
    assert "holds clips of the split 'train'" in capsys.readouterr().err
    with pytest.raises(BadInput, match="another folder"):
        write_data_set(str(tmp_path), 1, split="held-out")


def test_a_row_without_ray(tmp_path: Path) -> None:
    row = {"folder": f"{tmp_path}/a", "seed": 1, "split": "train", "size": [32, 32], "num_frames": 2}
    assert draw_row(row) == {"folder": f"{tmp_path}/a", "error": ""}
    assert (tmp_path / "a" / "sub_clip.mp4").exists()
