from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.check import Check
from stableavatar.presets import Preset
from tests.media import write_tone

MakeRow = Callable[..., dict[str, Any]]


@pytest.fixture
def check(preset: Preset) -> Check:
    return Check(preset, "/out")


def test_a_good_row_knows_everything_but_its_pixels(check: Check, make_row: MakeRow) -> None:
    row = check(make_row())
    assert row["status"] == "ready", row["error"]
    assert (row["width"], row["height"], row["num_frames"], row["num_windows"]) == (128, 128, 61, 1)
    assert row["prompt"] == check.preset.prompt
    assert row["num_steps"] == 2
    assert row["duration_s"] == pytest.approx(2.429, abs=0.001)
    assert row["video"] == f"/out/videos/anna-{row['content_id'][:16]}.mp4"


def test_a_span_shortens(check: Check, make_row: MakeRow) -> None:
    assert check(make_row(start_s=0.5, end_s=1.5))["num_frames"] == 25


def test_relative_paths_start_at_the_manifest(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", duration_s=1.0)
    assert check(make_row(audio="tone.wav"))["num_frames"] == 25


def test_identity_is_content_and_settings_alone(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    row = check(make_row())
    copy = tmp_path / "copy.flac"
    copy.write_bytes(Path(row["audio"]).read_bytes())
    same = make_row(audio=str(copy), row_number=9, manifest="/b.csv", prompt=check.preset.prompt, seed=42, id="other")
    assert check(same)["content_id"] == row["content_id"]
    for change in ({"seed": 1}, {"prompt": "x"}, {"end_s": 1.0}, {"text_scale": 1.5}, {"width": 96, "height": 160}):
        assert check(make_row(**change))["content_id"] != row["content_id"]
    assert check(make_row(weights_hash="4567"))["content_id"] != row["content_id"]
    longer = Check(replace(check.preset, max_text_tokens=99), "/out")
    assert longer(make_row())["content_id"] != row["content_id"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"portrait": "missing.png"}, "missing.png does not exist"),
        ({"audio": "s3://no-such-bucket/a.wav"}, "s3://no-such-bucket/a.wav does not exist"),
        ({"audio": "nope://a.wav"}, "nope://a.wav cannot be opened"),
        ({"portrait": __file__}, "test_check.py"),
        ({"audio": __file__}, "test_check.py"),
        ({"width": 512, "height": 512}, "Use one of 128x128, 96x160, 160x96"),
        ({"overlap": 21}, "at most 20"),
        ({"start_s": 100.0}, "speech_es_short.flac"),
        ({"end_s": 0.01}, "less than one video frame"),
        ({"separate_vocals": True}, "separator model"),
    ],
)
def test_bad_rows_say_row_file_and_remedy(
    check: Check, make_row: MakeRow, s3_server: str, words: dict[str, Any], message: str
) -> None:
    row = check(make_row(**words))
    assert (row["status"], row["error_kind"], row["stage"]) == ("failed", "bad_input", "check")
    assert row["error"].startswith(f"row 3 of {row['manifest']}: ")
    assert message in row["error"]
