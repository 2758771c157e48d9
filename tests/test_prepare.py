import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.check import Check
from pipelines.prepare import Prepare
from stableavatar.audio.decode import decode_speech, measure_sound, sound_of
from stableavatar.audio.loudness import measure_loudness
from stableavatar.audio.source import open_source
from stableavatar.presets import Preset
from tests.media import write_tone
from tests.sounds import lag_s

MakeRow = Callable[..., dict[str, Any]]


def test_portrait_and_sound_are_ready_for_the_model(make_row: MakeRow, preset: Preset, tmp_path: Path) -> None:
    row = Prepare()(Check(preset, "/out")(make_row(width=96, height=160)))
    assert row["status"] == "ready", row["error"]
    assert (row["portrait_HWC"].shape, row["portrait_HWC"].dtype) == ((160, 96, 3), np.uint8)
    assert row["speech"].dtype == np.float32
    assert len(row["speech"]) == round(row["duration_s"] * 16_000)
    (tmp_path / "sound.m4a").write_bytes(row["sound"])
    assert abs(measure_sound(f"{tmp_path}/sound.m4a").duration_s - row["num_frames"] / 25) < 0.04


def test_silence_and_loudness_reach_speech_and_sound(make_row: MakeRow, preset: Preset, tmp_path: Path) -> None:
    row = Prepare()(Check(preset, "/out")(make_row(pad_before_s=1.0, pad_after_s=0.5, loudness=-30.0)))
    assert row["status"] == "ready", row["error"]
    (tmp_path / "sound.m4a").write_bytes(row["sound"])
    for speech in (row["speech"], decode_speech(f"{tmp_path}/sound.m4a")):
        assert np.abs(speech[:15_900]).max() < 0.01 < np.abs(speech[16_000:-8_000]).max()
        assert np.abs(speech[-7_600:]).max() < 0.01
    assert abs(lag_s(decode_speech(f"{tmp_path}/sound.m4a"), row["speech"])) < 1e-3
    found = measure_loudness(sound_of(open_source(f"{tmp_path}/sound.m4a")))
    assert abs(found.integrated + 30) < 0.5


def test_a_file_that_changed_since_the_check_is_refused(make_row: MakeRow, preset: Preset, tmp_path: Path) -> None:
    audio = tmp_path / "a.flac"
    audio.write_bytes(Path(make_row()["audio"]).read_bytes())
    row = Check(preset, "/out")(make_row(audio=str(audio)))
    audio.write_bytes(audio.read_bytes() + b"x")
    failed = Prepare()(row)
    assert failed["error_kind"] == "bad_input"
    assert "a.flac has changed" in failed["error"]


def test_tracks_are_as_long_as_the_video_and_not_cut_like_the_sound(
    make_row: MakeRow, preset: Preset, tmp_path: Path
) -> None:
    write_tone(tmp_path / "tone.wav", duration_s=0.3)
    (tmp_path / "a.srt").write_text("1\n00:00:00,200 --> 00:00:09,000\nhello\n")
    words = {"audio_tracks": "fr=tone.wav", "subtitles": "en=a.srt", "start_s": 1.0, "end_s": 2.0}
    row = Prepare()(Check(preset, "/out")(make_row(**words)))
    assert row["status"] == "ready", row["error"]
    sound, srt = pickle.loads(row["track_files"])
    assert srt.decode().strip() == "1\n00:00:00,200 --> 00:00:01,000\nhello"
    (tmp_path / "sound.m4a").write_bytes(sound)
    heard = decode_speech(f"{tmp_path}/sound.m4a")
    assert len(heard) / 16_000 == pytest.approx(1.0, abs=0.03)
    assert np.abs(heard[800:4000]).mean() > 10 * np.abs(heard[6400:]).max()
    assert np.abs(heard[6400:]).max() < 0.01


def test_tracks_are_as_loud_as_the_row_says(make_row: MakeRow, preset: Preset, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.wav", duration_s=2.0)
    row = Prepare()(Check(preset, "/out")(make_row(audio_tracks="fr=tone.wav", loudness=-30.0)))
    assert row["status"] == "ready", row["error"]
    (tmp_path / "track.m4a").write_bytes(*pickle.loads(row["track_files"]))
    found = measure_loudness(sound_of(open_source(f"{tmp_path}/track.m4a")))
    assert abs(found.integrated + 30) < 0.5


@pytest.mark.parametrize("name", ["tone.wav", "a.srt"])
def test_a_track_that_changed_since_the_check_is_refused(
    make_row: MakeRow, preset: Preset, tmp_path: Path, name: str
) -> None:
    write_tone(tmp_path / "tone.wav", duration_s=0.3)
    (tmp_path / "a.srt").write_text("1\n00:00:00,200 --> 00:00:09,000\nhello\n")
    row = Check(preset, "/out")(make_row(audio_tracks="fr=tone.wav", subtitles="en=a.srt"))
    with (tmp_path / name).open("ab") as file:
        file.write(b"\n")
    assert f"{name} has changed" in Prepare()(row)["error"]
