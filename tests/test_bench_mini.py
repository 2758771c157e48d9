"""The small model's benchmark, on videos of which the right figures are known."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stableavatar.drawn.figures import Estimate
from stableavatar.presets import tiny
from tests.benchmarks.bench_mini import PARTS, Scope, films_folder, takes_of
from tests.benchmarks.mini_tables import Table, write_results
from tests.heldout import Studio, Take, clip_of, true_frames

PRESET = replace(tiny(), sizes=((48, 48),))


@dataclass(frozen=True, kw_only=True)
class Perfect(Studio):
    """Draws what is asked for: the face of the one and the mouth of the other."""

    def frames(self, take: Take) -> Iterator[np.ndarray]:
        clip, heard = (clip_of(seed, take.num_frames) for seed in (take.seed, take.speech_seed or take.seed))
        mouths = [{"mouth_opening": p.mouth_opening, "mouth_width": p.mouth_width} for p in heard.poses]
        poses = tuple(replace(pose, **mouth) for pose, mouth in zip(clip.poses, mouths, strict=True))
        return true_frames(replace(clip, poses=poses), self.size)

    def _through_vae(self, take: Take) -> Iterator[np.ndarray]:
        return self.frames(take)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def found(output: Path) -> dict[str, list[Table]]:
    model: Any = SimpleNamespace(preset=PRESET)
    studio = Perfect(model=model, folder=output)
    scope = Scope(num_clips=2, num_seeds=1, num_few=1, minutes=0.5, output=output)
    return {part: PARTS[part](studio, scope) for part in ("sync", "drift", "blend", "tail")}


def value(cell: Any) -> float:
    assert isinstance(cell, Estimate)
    return cell.value


def test_a_perfect_model_follows_the_speech_and_nothing_else(found: dict[str, list[Table]], output: Path) -> None:
    rows = {(row[0], row[1]): row for row in found["sync"][0].rows}
    for mouth in ("generated", "truth after the VAE", "truth"):
        assert value(rows[mouth, "truth"][2]) > 0.98
        assert rows[mouth, "truth"][3] == "+0.0 (100% within 1)"
        assert value(rows[mouth, "truth"][5]) < 0.05
    assert value(rows["generated, another's sound", "truth of the sound"][2]) > 0.98
    assert abs(value(rows["generated, another's sound", "truth of the face"][2])) < 0.5
    assert abs(value(rows["generated", "another clip's truth"][2])) < 0.5
    assert (output / "sheet.png").stat().st_size > 10_000


def test_a_perfect_model_does_not_drift_and_has_no_seams(found: dict[str, list[Table]], output: Path) -> None:
    courses, lips, seams = found["drift"]
    assert [row[0] for row in courses.rows] == ["identity", "brightness", "blue", "red"]
    for row in courses.rows:
        assert value(row[3]) == value(row[5])
    assert float(lips.rows[0][1]) > 0.98
    for row in (*seams.rows, *found["blend"][1].rows):
        assert value(row[1]) == value(row[2]) == pytest.approx(1, abs=0.7)
    assert (output / "drift.svg").read_text().count("<polyline") == 9


def test_a_perfect_model_is_the_same_in_every_row(found: dict[str, list[Table]]) -> None:
    for row in found["blend"][0].rows:
        assert value(row[1]) > 0.98
        assert value(row[6]) == pytest.approx(1)
        assert value(row[8]) == pytest.approx(0)
    for row in found["tail"][0].rows:
        assert value(row[1]) > 0.95
        assert row[2] == 0


def test_results_are_written(found: dict[str, list[Table]], output: Path) -> None:
    text = write_results([*found["sync"], *found["tail"]], "About.", output)
    assert (output / "results.md").read_text() == text
    assert "| generated | truth | " in text
    plain = json.loads((output / "results.json").read_text())["tables"][0]
    assert plain["rows"][0][2]["value"] > 0.98


def test_videos_of_another_model_are_not_taken_for_this_one(tmp_path: Path) -> None:
    assert films_folder(PRESET, tmp_path) != films_folder(replace(PRESET, audio_scale=2.0), tmp_path)
    same, other = (takes_of(PRESET, 1, {"audio_scale": scale})[0] for scale in (PRESET.audio_scale, 2.0))
    assert same == takes_of(PRESET, 1)[0] != other
