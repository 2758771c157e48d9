import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.check import Check
from pipelines.encode_text import EncodeText
from pipelines.generate import Generate
from pipelines.measure import Measure
from pipelines.prepare import Prepare
from pipelines.stage import WORKING_COLUMNS
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import Preset
from tests.avatars import NoiseAvatar, load_noise

Prepared = Callable[..., dict[str, Any]]


@pytest.fixture
def prepared(make_row: Callable[..., dict[str, Any]], preset: Preset, tmp_path: Path) -> Prepared:
    """A row that is ready for the generator."""

    def make(**words: Any) -> dict[str, Any]:
        row = Prepare()(Check(preset, f"{tmp_path}/out")(make_row(end_s=0.5, **words)))
        return EncodeText(preset, TextEncoder.load)(row)

    return make


def test_a_video_is_published_and_measured(
    prepared: Prepared, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}/scratch")
    row = Generate(preset, load_noise)(prepared())
    assert row["status"] == "ready", row["error"]
    assert Path(row["video"]).is_file()
    assert not set(WORKING_COLUMNS) & set(row)
    assert row["peak_memory_bytes"] > 1e6
    row = Measure()(row)
    assert row["status"] == "ready", row["error"]
    assert (row["num_blank_frames"], len(row["brightness"])) == (0, 1)
    assert row["motion_mean"] > 1
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_gpu_that_failed_ends_the_process(preset: Preset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later row would fail on it too."""

    class Broken(NoiseAvatar):
        def generate(self, *_: Any, **__: Any) -> Any:
            raise torch.AcceleratorError("an illegal memory access was encountered")

    class ProcessEnded(BaseException):
        pass

    def end(code: int) -> None:
        raise ProcessEnded(code)

    monkeypatch.setattr("pipelines.generate.os._exit", end)
    monkeypatch.setattr("pipelines.generate.to_request", lambda *_: None)
    row = {
        "status": "ready",
        "id": "a",
        "manifest": "m",
        "row_number": 1,
        "num_steps": 1,
        "num_windows": 1,
        "loras": "[]",
    }
    with pytest.raises(ProcessEnded):
        Generate(preset, lambda preset, device: Broken())(row)


def test_the_same_row_gives_the_same_video(prepared: Prepared, preset: Preset) -> None:
    videos = [Path(Generate(preset, load_noise)(prepared())["video"]).read_bytes() for _ in range(2)]
    assert videos[0] == videos[1]


def test_a_failing_generator_leaves_no_video(prepared: Prepared, preset: Preset, tmp_path: Path) -> None:
    row = Generate(preset, load_noise)(prepared(seed=14))
    assert (row["status"], row["error_kind"], row["video"]) == ("failed", "internal", None)
    assert not (tmp_path / "out").exists()


def test_a_blank_video_is_broken_and_removed(prepared: Prepared, preset: Preset) -> None:
    made = Generate(preset, load_noise)(prepared(seed=13))
    row = Measure()(made)
    assert (row["error_kind"], row["video"]) == ("broken_video", None)
    assert "blank" in row["error"]
    assert not Path(made["video"]).exists()
