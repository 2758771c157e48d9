import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest

from manifests.read import parse_manifest
from pipelines import carry_over
from pipelines.check import Check
from pipelines.encode_text import EncodeText
from pipelines.generate import Generate
from pipelines.measure import Measure
from pipelines.prepare import Prepare
from stableavatar.avatar import Avatar
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import Preset
from tests.avatars import NoiseAvatar
from tests.media import write_tone
from tests.separators import band, write_separator
from tests.videos import frame_hashes

MakeRow = Callable[..., dict[str, Any]]
Make = Callable[..., dict[str, Any]]
NUM_FRAMES = 30
WHOLE = {"end_s": 1.2, "width": 96, "height": 160, "window_latents": 5, "overlap": 1, "num_steps": 1}


@pytest.fixture
def make(make_row: MakeRow, preset: Preset, tmp_path: Path) -> Make:
    """The video of a row, made by every stage."""

    def made(avatar: Any = None, **words: Any) -> dict[str, Any]:
        row = EncodeText(preset, TextEncoder.load)(Prepare()(Check(preset, f"{tmp_path}/out")(make_row(**words))))
        return Measure()(Generate(preset, lambda *_: avatar or NoiseAvatar(), f"{tmp_path}/out")(row))

    return made


@pytest.fixture
def base(make: Make) -> str:
    """The finished video of a row with the words WHOLE."""
    return make(**WHOLE)["video"]


def segments(start_s: float = 0.4, end_s: float = 0.6, audio: str = "fix.wav") -> str:
    return json.dumps([{"start_s": start_s, "end_s": end_s, "audio": audio}])


def test_a_corrected_row_is_a_new_video_of_its_own(make: Make, preset: Preset, tmp_path: Path) -> None:
    avatar = Avatar.load(preset, "cpu")
    first = make(avatar, **WHOLE)
    assert first["status"] == "ready", first["error"]
    before = Path(first["video"]).read_bytes()
    write_tone(tmp_path / "fix.wav", duration_s=0.2, frequency_hz=900)
    second = make(avatar, **WHOLE, base_video=first["video"], segments=segments())
    assert second["status"] == "ready", second["error"]
    assert second["video"] != first["video"]
    assert Path(first["video"]).read_bytes() == before
    old, new = frame_hashes(Path(first["video"])), frame_hashes(Path(second["video"]))
    assert len(new) == NUM_FRAMES
    assert all(old[n] != new[n] for n in range(10, 15))
    with av.open(second["video"]) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    part = sound[round(0.42 * rate) : round(0.58 * rate)]
    loudest = np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() * rate / len(part)
    assert loudest == pytest.approx(900, abs=10)


def test_a_correction_with_separated_vocals_is_prepared_without_encoding_the_original(
    make_row: MakeRow, preset: Preset, tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tone(tmp_path / "fix.wav", duration_s=0.2)
    separator = write_separator(tmp_path / "band.onnx", band(300, 2000))
    words = {"base_video": base, "segments": segments(), "separate_vocals": True}
    row = Check(preset, f"{tmp_path}/out", separator=separator)(make_row(**WHOLE, **words))
    assert row["status"] == "ready", row["error"]
    monkeypatch.setattr("pipelines.prepare.encode_sound", Mock(side_effect=AssertionError))
    row = Prepare()(row)
    assert row["status"] == "ready", row["error"]
    assert row["sound"]


def test_what_a_correction_says_is_part_of_the_identity_only_where_there_is_one(
    make_row: MakeRow, preset: Preset, tmp_path: Path, base: str
) -> None:
    check = Check(preset, f"{tmp_path}/out")
    write_tone(tmp_path / "fix.wav", duration_s=0.2)
    write_tone(tmp_path / "other.wav", duration_s=0.2, frequency_hz=300)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "fix.wav").read_bytes())

    def identity(**words: Any) -> str:
        row = check(make_row(**WHOLE, **words))
        assert row["status"] == "ready", row["error"]
        return row["content_id"]

    whole = identity()
    first = identity(base_video=base, segments=segments())
    assert identity(base_video=base, segments=segments(audio="copy.wav")) == first
    longer, other = segments(end_s=0.64), segments(audio="other.wav")
    assert len({whole, first, *(identity(base_video=base, segments=text) for text in (longer, other))}) == 4


def test_windows_are_those_of_the_correction(make_row: MakeRow, preset: Preset, tmp_path: Path, base: str) -> None:
    write_tone(tmp_path / "fix.wav", duration_s=0.2)
    check = Check(preset, f"{tmp_path}/out")
    assert check(make_row(**WHOLE))["num_windows"] == 2
    assert check(make_row(**WHOLE, base_video=base, segments=segments()))["num_windows"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"segments": "x"}, "segments is no JSON"),
        ({"segments": segments(audio="missing.wav")}, "missing.wav does not exist"),
        ({"segments": segments(end_s=0.5)}, "Shorten the sound, or widen the segment"),
        ({"segments": segments(start_s=1.1, end_s=1.3)}, "the video lasts 1.2 s"),
        ({"base_video": "fix.wav"}, "no picture or no sound"),
        ({"base_video": "nothing.mp4"}, "nothing.mp4 does not exist"),
        ({"mode": "reference"}, "not corrected in mode `reference`"),
        ({"end_s": 1.0}, "has 30 frames, but this row's video has 25"),
        ({"width": 160, "height": 96}, "has 96x160 pixels, but this row's video has 160x96"),
    ],
)
def test_what_cannot_be_corrected_is_told(
    make_row: MakeRow, preset: Preset, tmp_path: Path, base: str, words: dict[str, Any], message: str
) -> None:
    write_tone(tmp_path / "fix.wav", duration_s=0.2)
    row = Check(preset, f"{tmp_path}/out")(make_row(**{**WHOLE, "base_video": base, "segments": segments(), **words}))
    assert row["error_kind"] == "bad_input"
    assert message in row["error"]


def test_what_the_old_video_carries_must_be_named_again(
    make: Make, make_row: MakeRow, preset: Preset, tmp_path: Path
) -> None:
    write_tone(tmp_path / "fix.wav", duration_s=0.2)
    (tmp_path / "en.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHola\n")
    extras = {"language": "es", "audio_tracks": "de=fix.wav", "subtitles": "en=en.srt"}
    old = make(**WHOLE, **extras)["video"]
    check = Check(preset, f"{tmp_path}/out")

    def checked(*left_out: str) -> dict[str, Any]:
        words = {name: text for name, text in extras.items() if name not in left_out}
        return check(make_row(**WHOLE, **words, base_video=old, segments=segments()))

    assert checked()["status"] == "ready", checked()["error"]
    for column in extras:
        row = checked(column)
        assert row["error_kind"] == "bad_input"
        assert f"give it the column {column}" in row["error"]


def test_an_old_video_that_changed_since_the_check_is_refused(
    make_row: MakeRow, preset: Preset, tmp_path: Path, base: str
) -> None:
    write_tone(tmp_path / "fix.wav", duration_s=0.2)
    row = Check(preset, f"{tmp_path}/out")(make_row(**WHOLE, base_video=base, segments=segments()))
    with open(base, "ab") as file:
        file.write(b"x")
    assert "has changed since it was checked" in Prepare()(row)["error"]


def test_one_of_the_two_columns_alone_is_a_mistake() -> None:
    rows = b'{"portrait": "a", "audio": "b", "segments": [{}]}\n{"portrait": "a", "audio": "b", "base_video": "c"}\n'
    errors = [row["error"] for row in parse_manifest(rows, "m.jsonl")]
    assert "segments is given and base_video is empty; give both" in errors[0]
    assert "base_video is given and segments is empty; give both" in errors[1]


@pytest.mark.parametrize("text", [segments(), "no JSON"])
def test_a_row_that_is_left_names_its_files_from_the_root(make_row: MakeRow, tmp_path: Path, text: str) -> None:
    carry_over.write_list(str(tmp_path), [make_row(base_video="old.mp4", segments=text)])
    line = json.loads(Path(carry_over.list_uri(str(tmp_path))).read_text())
    assert line["base_video"] == f"{tmp_path}/old.mp4"
    assert line["segments"] == (text if text == "no JSON" else segments(audio=f"{tmp_path}/fix.wav"))
