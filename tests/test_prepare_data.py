"""Raw videos to training data: one video without Ray, and the whole command."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipelines import prepare_data as stage
from pipelines.cli import main
from pipelines.prepare_data import (
    Options,
    PrepareVideo,
    lost,
    read_report,
    skipped,
    still_holds,
    valid_clips,
    with_clips,
    without_unseen,
)
from tests.conftest import EXAMPLES
from tests.videos import BARS, LIFE, MOVING, Raw, change, write_raw


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad videos."""
    folder = tmp_path_factory.mktemp("videos")
    write_raw(folder / "two_shots.mp4", Raw(shots=[(MOVING, 3.32), (BARS, 3.36)], width=320, height=180, fps="50"))
    write_raw(folder / "short.mp4", Raw(shots=[(LIFE, 1)], width=64, height=64))
    change(f"{folder}/short.mp4", folder / "mute.mp4", an=None)
    shutil.copy(EXAMPLES / "video_de.mp4", folder / "real.mp4")
    (folder / "text.mp4").write_text("no video")
    (folder / "notes.txt").write_text("nobody asked for this")
    return folder


def test_the_command_makes_what_can_be_made_and_tells_of_the_rest(
    ray_cluster: None, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    command = ["prepare-data", str(videos), "--output", str(root), "--category", "dancing"]
    assert main(command) == 2
    shown = capsys.readouterr()
    assert shown.err.count("--face-landmarks FILE") == 1
    for name, reason in (("short", "a shot of 25 frames is too short"), ("mute", "has no audio stream")):
        assert any(line.startswith(f"{name}.mp4 bad_input: ") and reason in line for line in shown.out.splitlines())
    assert "text.mp4 is not a video that can be decoded" in shown.out
    rows = {words[0]: words[1:] for words in map(str.split, shown.out.splitlines()) if words[1:2] in (["rec"], ["vec"])}
    assert rows == {"two_shots.mp4": ["rec", "2", "0", "0", "6.68"], "real.mp4": ["vec", "1", "0", "0", "5.36"]}

    lists = {name: (root / f"video_{name}_path.txt").read_text().split() for name in ("square", "rec", "vec")}
    assert {name: len(folders) for name, folders in lists.items()} == {"square": 0, "rec": 2, "vec": 1}
    assert all((root / folder / "sub_clip.mp4").is_file() for folders in lists.values() for folder in folders)
    assert all(folder.startswith("rec/dancing/") for folder in lists["rec"])
    report = [json.loads(line) for line in (root / "report.jsonl").read_text().splitlines()]
    assert sorted(line["status"] for line in report) == ["made"] * 3 + ["skipped"] * 3
    assert {line["folder"] for line in report if line["status"] == "made"} == {
        str(root / folder) for folder in (*lists["rec"], *lists["vec"])
    }

    written = {file: file.stat().st_mtime_ns for file in root.rglob("*.png")}
    assert main([*command[:1], f"{videos}/real.mp4", f"{videos}/text.mp4", *command[2:]]) == 2
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.png")} == written
    assert len((root / "report.jsonl").read_text().splitlines()) == len(report)  # the others are still in it
    assert main([*command[:1], f"{videos}/real.mp4", *command[2:]]) == 0
    assert "real.mp4 vec" in " ".join(capsys.readouterr().out.split())

    assert main([*command[:1], f"{videos}/real.mp4", *command[2:-1], "speech"]) == 0
    assert (root / "video_vec_path.txt").read_text().split() == [lists["vec"][0].replace("dancing", "speech")]
    assert (root / lists["vec"][0]).is_dir()


@pytest.mark.skipif(find_spec("mediapipe") is not None, reason="MediaPipe is installed")
def test_masks_that_were_asked_for_are_not_left_out_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "face.task"
    model.write_bytes(b"a model")
    command = ["prepare-data", f"{EXAMPLES}/video_de.mp4", "--output", f"{tmp_path}/root"]
    assert main([*command, "--face-landmarks", str(model)]) == 1
    assert "pip install 'stableavatar[masks]'" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "root").exists()


def prepare(video: Path | str, root: Path, before: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    row = PrepareVideo(str(root), Options())({"video": str(video), "before": json.dumps(before or [])})
    return json.loads(row["lines"])


def test_a_video_that_was_prepared_is_not_decoded_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "a.mp4"
    shutil.copy(videos / "short.mp4", video)
    before = prepare(video, tmp_path)
    with monkeypatch.context() as patch:
        patch.delattr(stage, "prepare_video")
        assert prepare(video, tmp_path, before) == before
    shutil.copy(videos / "mute.mp4", video)  # other content under the same name
    assert "no audio stream" in prepare(video, tmp_path, before)[0]["reason"]


def test_an_earlier_report_holds_only_while_nothing_has_changed(tmp_path: Path) -> None:
    about = {"video_sha256": "ab", "min_frames": 81}
    made = {**about, "status": "made", "folder": str(tmp_path), "error_kind": ""}
    skipped = {**about, "status": "skipped", "folder": "", "error_kind": "bad_input"}
    assert still_holds([made, skipped], about)
    assert not still_holds([], about)
    assert not still_holds([made], {**about, "min_frames": 90})
    assert not still_holds([{**made, "folder": f"{tmp_path}/gone"}], about)
    assert not still_holds([{**skipped, "error_kind": "storage"}], about)  # may pass


def test_a_video_that_nobody_could_look_at_keeps_its_clips() -> None:
    about = {"video": "/a.mp4", "video_sha256": None}
    made = {"video": "/a.mp4", "status": "made", "folder": "/data/vec/speech/a", "error_kind": ""}
    cut = skipped(about, "bad_input", "too short")
    unseen = skipped(about, "network", "no answer")
    assert with_clips([unseen], [made, cut]) == [unseen, {**made, "status": "kept"}]
    assert valid_clips({"/a.mp4": with_clips([unseen], [made, cut])}) == valid_clips({"/a.mp4": [made]})
    assert with_clips(lost("/a.mp4"), [made])[1:] == [{**made, "status": "kept"}]
    assert without_unseen(with_clips([unseen], [made])) == [{**made, "status": "kept"}]
    assert with_clips([cut], [made]) == [cut]  # it was looked at: there is nothing in it any more


def test_whatever_goes_wrong_is_a_line(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "prepare_video", fail)
    (line,) = prepare(videos / "short.mp4", tmp_path)
    assert (line["status"], line["error_kind"]) == ("skipped", "storage")
    (line,) = prepare(videos / "none.mp4", tmp_path)
    assert "none.mp4" in line["reason"] and line["video_sha256"] is None
    (line,) = lost("/in/deadly.mp4")
    assert line["error_kind"] == "quarantined" and "deadly.mp4 killed 3 processes" in line["reason"]


def test_nothing_is_lost_in_a_report(tmp_path: Path) -> None:
    lines = {"/a.mp4": [{"video": "/a.mp4", "status": "made"}], "/ä.mp4": [{"video": "/ä.mp4", "status": "skipped"}]}
    stage.write_report(str(tmp_path), lines)
    assert read_report(str(tmp_path)) == lines
    assert read_report(f"{tmp_path}/none") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--min-seconds", "3"], "--min-seconds is below 3.24"),
        (["--max-seconds", "6"], "--max-seconds is below twice"),
        (["--output", "s3://bucket/data"], "training reads clips from a disk"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(
    words: list[str], message: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare-data", str(videos), "--output", str(tmp_path / "root"), *words]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "root").exists()
