import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import pytest
import torch
from safetensors.torch import save_file

from pipelines.check import Check
from stableavatar.limits import Limits
from stableavatar.presets import Preset
from tests.media import write_tone
from tests.separators import band, write_separator

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


def test_silence_lengthens(check: Check, make_row: MakeRow) -> None:
    row = check(make_row(start_s=0.5, end_s=1.5, pad_before_s=0.4, pad_after_s=0.2))
    assert (row["num_frames"], row["duration_s"]) == (40, 1.6)


def test_relative_paths_start_at_the_manifest(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", duration_s=1.0)
    assert check(make_row(audio="tone.wav"))["num_frames"] == 25


def test_identity_is_content_and_settings_alone(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    row = check(make_row())
    copy = tmp_path / "copy.flac"
    copy.write_bytes(Path(row["audio"]).read_bytes())
    same = make_row(audio=str(copy), row_number=9, manifest="/b.csv", prompt=check.preset.prompt, seed=42, id="other")
    assert check(same)["content_id"] == row["content_id"]
    for name in ("", " ", "0", "00"):
        assert check(make_row(pad_before_s=0.0, audio_stream=name))["content_id"] == row["content_id"]
    for change in (
        {"seed": 1},
        {"prompt": "x"},
        {"end_s": 1.0},
        {"text_scale": 1.5},
        {"mode": "reference"},
        {"text_schedule": "2"},
        {"width": 96, "height": 160},
        {"pad_before_s": 0.5},
        {"pad_after_s": 0.5},
        {"loudness": -16.0},
    ):
        assert check(make_row(**change))["content_id"] != row["content_id"]
    assert check(make_row(weights_hash="4567"))["content_id"] != row["content_id"]
    for other in (replace(check.preset, max_text_tokens=99), replace(check.preset, memory="fp8")):
        assert Check(other, "/out")(make_row())["content_id"] != row["content_id"]
    offloading = replace(check.preset, memory="group_offload")
    assert Check(offloading, "/out")(make_row())["content_id"] == row["content_id"]


def write_lora(path: Path, scale: float, layer: str = "blocks.0.attn1.to_q") -> None:
    down, up = torch.full((2, 48), scale), torch.full((48, 2), scale)
    save_file({f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}, path)


def test_loras_are_part_of_the_identity_by_content_and_weight(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("copy", 1.0), ("b", 2.0)):
        write_lora(tmp_path / f"{name}.safetensors", scale)

    def identity(lora: str | None) -> str:
        row = check(make_row(lora=lora))
        assert row["status"] == "ready", row["error"]
        return row["content_id"]

    first = identity("a.safetensors")
    assert identity("copy.safetensors:1.0") == first
    assert len({first, identity(None), identity("a.safetensors:0.5"), identity("b.safetensors")}) == 4


def test_a_lora_of_another_model_is_refused_with_its_name(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", 1.0, layer="blocks.7.attn1.to_q")
    row = check(make_row(lora="a.safetensors"))
    assert (row["status"], row["error_kind"]) == ("failed", "bad_input")
    assert "a.safetensors" in row["error"] and "another model" in row["error"]


def test_what_lies_beside_a_lora_is_checked_before_it_is_read(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    write_lora(tmp_path / "adapter_model.safetensors", 1.0)
    os.mkfifo(tmp_path / "adapter_config.json")
    row = check(make_row(lora="adapter_model.safetensors"))
    assert row["error_kind"] == "bad_input"
    assert "adapter_config.json is a pipe" in row["error"]


def test_limits_hold_for_every_file_of_a_row(preset: Preset, make_row: MakeRow, tmp_path: Path) -> None:
    write_lora(tmp_path / "a.safetensors", 1.0)
    row = make_row(lora="a.safetensors")
    for column in ("portrait", "audio"):
        (tmp_path / column).write_bytes(Path(row[column]).read_bytes())
    inside = Limits(inputs=(str(tmp_path),))
    assert Check(preset, "/out", inside)({**row, "portrait": "portrait", "audio": "audio"})["status"] == "ready"
    for column in ("portrait", "audio"):
        other = {"portrait": "portrait", "audio": "audio", column: row[column]}
        assert "lies outside" in Check(preset, "/out", inside)({**row, **other})["error"]
    elsewhere = Limits(inputs=tuple(map(str, Path(row["audio"]).parents[:1])))
    assert "a.safetensors lies outside" in Check(preset, "/out", elsewhere)(row)["error"]


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
        ({"audio_stream": "de"}, "has no audio stream 'de'. There is 0: "),
        ({"end_s": 0.01}, "less than one video frame"),
        ({"language": "klingon"}, "'klingon' is no known language"),
        ({"subtitles": "en=missing.srt"}, "missing.srt does not exist"),
        ({"subtitles": f"en={__file__}"}, "is not subtitles that can be read"),
        ({"audio_tracks": f"en={__file__}"}, "test_check.py is not sound"),
        ({"audio_tracks": "en="}, "a file is missing"),
        ({"separate_vocals": True}, "no vocal separator. Name its file with --separator"),
    ],
)
def test_bad_rows_say_row_file_and_remedy(
    check: Check, make_row: MakeRow, s3_server: str, words: dict[str, Any], message: str
) -> None:
    row = check(make_row(**words))
    assert (row["status"], row["error_kind"], row["stage"]) == ("failed", "bad_input", "check")
    assert row["error"].startswith(f"row 3 of {row['manifest']}: ")
    assert message in row["error"]


SRT = "1\n00:00:00,200 --> 00:00:00,900\n{}\n"


def test_language_and_tracks_are_part_of_the_identity_once_they_are_given(
    check: Check, make_row: MakeRow, tmp_path: Path
) -> None:
    for name, word in (("a", "hello"), ("copy", "hello"), ("b", "bye")):
        (tmp_path / f"{name}.srt").write_text(SRT.format(word))
    write_tone(tmp_path / "tone.wav", duration_s=0.3)

    def identity(**words: Any) -> str:
        row = check(make_row(**words))
        assert row["status"] == "ready", row["error"]
        return row["content_id"]

    first = identity(subtitles="en=a.srt", language="de")
    assert identity(subtitles="eng=copy.srt", language="de-AT") == first
    others: list[dict[str, Any]] = [
        {},
        {"language": "de"},
        {"language": "de", "subtitles": "en=b.srt"},
        {"language": "de", "subtitles": "fr=a.srt"},
        {"language": "de", "subtitles": "en=a.srt", "audio_tracks": "en=tone.wav"},
    ]
    assert len({first, *(identity(**words) for words in others)}) == 6


def test_tracks_obey_the_limits(preset: Preset, make_row: MakeRow, tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(SRT.format("hello"))
    elsewhere = Limits(inputs=(str(Path(make_row()["audio"]).parent),))
    assert "a.srt lies outside" in Check(preset, "/out", elsewhere)(make_row(subtitles="en=a.srt"))["error"]


def test_a_separator_counts_for_rows_that_want_one(preset: Preset, make_row: MakeRow, tmp_path: Path) -> None:
    one, other = (
        write_separator(tmp_path / name / "a.onnx", gains) for name, gains in (("1", band(0, 99)), ("2", band(0, 999)))
    )

    def identity(separator: str, is_wanted: bool | None) -> str:
        row = Check(preset, "/out", separator=separator)(make_row(separate_vocals=is_wanted))
        assert row["status"] == "ready", row["error"]
        return row["content_id"]

    assert identity(one, None) == identity(other, None) == identity("/missing.onnx", None) == identity("", False)
    assert len({identity(one, None), identity(one, True), identity(other, True)}) == 3


def test_a_missing_separator_fails_the_rows_that_want_it(preset: Preset, make_row: MakeRow) -> None:
    row = Check(preset, "/out", separator="/no/such.onnx")(make_row(separate_vocals=True))
    assert row["error_kind"] == "bad_input"
    assert "/no/such.onnx, the vocal separator, is missing. `stableavatar download" in row["error"]


def test_a_sound_has_one_identity_by_number_and_by_language(check: Check, make_row: MakeRow, tmp_path: Path) -> None:
    tones = [ffmpeg.input(f"sine=frequency={hertz}:duration=1", format="lavfi") for hertz in (300, 600)]
    path = str(tmp_path / "two.mka")
    languages = {"metadata:s:a:0": "language=eng", "metadata:s:a:1": "language=ger"}
    ffmpeg.output(*tones, path, loglevel="error", acodec="flac", **languages).run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
    first, same, second, german = (check(make_row(audio=path, audio_stream=name)) for name in ("", "en", "1", "de"))
    assert (first["audio_stream"], german["audio_stream"]) == ("", "1")
    assert first["content_id"] == same["content_id"] != second["content_id"] == german["content_id"]
