import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines import results, storage
from pipelines.check import Check
from pipelines.encode_text import EncodeText
from pipelines.generate import Generate, load_in_part
from pipelines.measure import Measure
from pipelines.prepare import Prepare
from pipelines.progress import Progress, Reporter, Running
from pipelines.results import WriteResult
from pipelines.stage import WORKING_COLUMNS
from stableavatar.avatar import Avatar
from stableavatar.errors import NetworkError
from stableavatar.model.conditions import TextEncoder
from stableavatar.presets import Preset
from tests.actors import Direct
from tests.avatars import NoiseAvatar, load_noise
from tests.media import write_tone

Prepared = Callable[..., dict[str, Any]]


@pytest.fixture
def prepared(make_row: Callable[..., dict[str, Any]], preset: Preset, tmp_path: Path) -> Prepared:
    """A row that is ready for the generator."""

    def make(**words: Any) -> dict[str, Any]:
        row = Prepare()(Check(preset, f"{tmp_path}/out")(make_row(end_s=0.5, **words)))
        return EncodeText(preset, TextEncoder.load)(row)

    return make


@pytest.fixture
def generate(preset: Preset, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Generate one row into `tmp_path`/out, with whatever generator."""

    def run(row: dict[str, Any], avatar: Any = None, **options: Any) -> dict[str, Any]:
        return Generate(preset, lambda *_: avatar or NoiseAvatar(), f"{tmp_path}/out", **options)(row)

    return run


def test_a_video_is_measured_and_then_appears(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABLEAVATAR_SCRATCH", f"{tmp_path}/scratch")
    row = generate(prepared())
    assert row["status"] == "ready", row["error"]
    assert Path(row["staged"]).is_file()
    assert not Path(row["video"]).exists()
    assert not set(WORKING_COLUMNS) & set(row)
    assert row["peak_memory_bytes"] > 1e6
    row = Measure()(row)
    assert row["status"] == "ready", row["error"]
    assert (row["num_blank_frames"], len(row["brightness"])) == (0, 1)
    assert row["motion_mean"] > 1
    assert Path(row["video"]).is_file()
    assert not Path(row["staged"]).exists()
    assert not list((tmp_path / "scratch").rglob("*.mp4"))
    with Image.open(row["sheet"]) as sheet:
        assert (sheet.format, sheet.width, sheet.height) == ("JPEG", 4 * round(row["width"] * 112 / row["height"]), 112)


def test_a_video_whose_contact_sheet_cannot_be_written_is_as_good(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    row = generate(prepared())
    (tmp_path / "out" / "sheets").write_text("a file where the folder should be")
    row = Measure()(row)
    assert row["status"] == "ready", row["error"]
    assert Path(row["video"]).is_file()


def test_a_gpu_that_failed_ends_the_process(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later row would fail on it too."""

    class Broken(NoiseAvatar):
        def generate(self, *_: Any, **__: Any) -> Any:
            raise torch.AcceleratorError("an illegal memory access was encountered")

    class ProcessEnded(BaseException):
        pass

    def end(code: int) -> None:
        raise ProcessEnded(code)

    monkeypatch.setattr("pipelines.generate.os._exit", end)
    row = prepared()
    with pytest.raises(ProcessEnded):
        generate(row, Broken())
    attempts = json.loads(Path(f"{tmp_path}/out/checkpoints/{results.stem(row)}/attempts.json").read_text())
    assert attempts["is_open"]  # it counts as a death


def test_a_row_that_killed_its_processes_is_not_given_up_before_it_has_returned(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever ends the run until then, the next one begins with the row anew."""
    row = prepared()
    path = f"{tmp_path}/out/checkpoints/{results.stem(row)}/attempts.json"
    killed_three = json.dumps({"begun": 3, "deaths": 2, "is_open": True}).encode()
    storage.write(killed_three, path)
    doubtful = generate({**row, "may_return": True})
    assert (doubtful["status"], doubtful["error_kind"], doubtful["attempts"]) == ("unfinished", "quarantined", 3)
    WriteResult(f"{tmp_path}/out", pa.schema([]))(doubtful)
    assert results.read_results(f"{tmp_path}/out").num_rows == 0
    storage.write(killed_three, path)
    assert generate({**row, "may_return": False})["status"] == "failed"


def test_the_same_row_gives_the_same_video(prepared: Prepared, preset: Preset, tmp_path: Path) -> None:
    made = [Generate(preset, load_noise, f"{tmp_path}/{night}")(prepared())["staged"] for night in "ab"]
    assert Path(made[0]).read_bytes() == Path(made[1]).read_bytes()


def test_a_video_lies_in_the_folder_that_its_name_says(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    row = Measure()(generate(prepared(video_name="de/anna")))
    assert row["status"] == "ready", row["error"]
    assert [path.name for path in (tmp_path / "out" / "videos" / "de").iterdir()] == [Path(row["video"]).name]


def test_the_tracks_of_a_row_are_in_its_video(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,400\nhello\n")
    write_tone(tmp_path / "tone.wav", duration_s=0.3)
    words = {"language": "de-AT", "subtitles": "en=a.srt", "audio_tracks": "fr=tone.wav"}
    row = Measure()(generate(prepared(**words)))
    assert row["status"] == "ready", row["error"]
    with av.open(row["video"]) as container:
        found = [(stream.type, stream.metadata.get("language")) for stream in container.streams]
    assert found == [("video", "und"), ("audio", "deu"), ("audio", "fra"), ("subtitle", "eng")]


def test_a_failing_generator_leaves_no_video(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    row = generate(prepared(seed=14, attempts=3, gpu_s=50.0))
    assert (row["status"], row["error_kind"], row["video"], row["attempts"]) == ("failed", "internal", None, 3)
    assert row["gpu_s"] > 50
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_blank_video_is_broken_and_never_appears(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    row = Measure()(generate(prepared(seed=13)))
    assert (row["error_kind"], row["video"]) == ("broken_video", None)
    assert "blank" in row["error"]
    assert not list(tmp_path.rglob("*.mp4"))


def test_a_video_that_is_made_already_is_not_made_again(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    first = generate(prepared())
    second = generate(prepared(), avatar=object())  # which cannot generate anything
    assert second["status"] == "ready", second["error"]
    assert (second["attempts"], second["sample_s"]) == (2, first["sample_s"])
    assert Measure()(second)["status"] == "ready"
    # The process may also die after the video has moved to its place and before the row is written down.
    third = generate(prepared(), avatar=object())
    assert Measure()(third)["status"] == "ready"
    assert len(list(tmp_path.rglob("*.mp4"))) == 1


def test_a_video_with_the_same_content_and_another_id_is_copied(
    prepared: Prepared, generate: Callable[..., dict[str, Any]]
) -> None:
    first = Measure()(generate(prepared()))
    second = Measure()(generate(prepared(id="otto", twin=first["video"]), avatar=object()))
    assert second["status"] == "ready", second["error"]
    assert second["video"] != first["video"]
    assert Path(second["video"]).read_bytes() == Path(first["video"]).read_bytes()


def test_a_full_disk_is_no_fault_of_the_row(prepared: Prepared, generate: Callable[..., dict[str, Any]]) -> None:
    class Full(NoiseAvatar):
        def generate(self, *_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

    assert generate(prepared(), Full())["error_kind"] == "storage"


def test_an_upload_that_fails_never_loses_the_video(
    prepared: Prepared, generate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABLEAVATAR_SCRATCH", f"{tmp_path}/scratch")
    real = storage.publish

    def refuse(path: str, uri: str) -> None:
        raise NetworkError(f"{uri} could not be reached")

    monkeypatch.setattr(storage, "publish", refuse)
    row = generate(prepared())
    assert (row["error_kind"], row["attempts"]) == ("network", 1)
    monkeypatch.setattr(storage, "publish", real)
    row = generate(prepared(), avatar=object())
    assert row["status"] == "ready", row["error"]
    assert Measure()(row)["status"] == "ready"
    assert not list((tmp_path / "scratch").rglob("*.mp4"))


def test_a_run_that_is_to_stop_begins_no_row(prepared: Prepared, generate: Callable[..., dict[str, Any]]) -> None:
    progress = Progress()
    progress.stop()
    row = generate(prepared(), avatar=object(), reporter=Reporter(Direct(progress)))
    assert row["status"] == "unfinished"
    assert not set(WORKING_COLUMNS) & set(row)
    assert Measure()(row) == row


@pytest.mark.parametrize(("stop_at", "num_steps_resumed"), [(3, 3), (7, 5)])  # while it samples, and while it decodes
def test_a_run_that_is_to_stop_saves_what_runs_and_the_next_one_makes_the_same_video(
    prepared: Prepared,
    preset: Preset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
    num_steps_resumed: int,
) -> None:
    class Stopping(Progress):
        def __init__(self) -> None:
            super().__init__()
            self.saved_at: list[float] = []

        def report(self, running: Running) -> bool:
            self.saved_at.append(running.saved_at)
            return super().report(running) or len(self.saved_at) >= stop_at

    monkeypatch.setattr("pipelines.progress.REPORT_EVERY_S", 0.0)

    def make(output: str, **options: Any) -> dict[str, Any]:
        return Generate(preset, Avatar.load, output, **options)(prepared(num_steps=5))

    stopping = Stopping()
    row = make(f"{tmp_path}/out", reporter=Reporter(Direct(stopping)))
    assert row["status"] == "unfinished"
    assert stopping.saved_at[-1] > stopping.saved_at[0]  # it has told that it was saved
    going_on = Progress()
    resumed = make(f"{tmp_path}/out", reporter=Reporter(Direct(going_on)))
    assert going_on.snapshot().windows_done == resumed["num_windows"] - num_steps_resumed / 5
    assert (resumed["status"], resumed["attempts"]) == ("ready", 2)
    assert resumed["num_steps_resumed"] == num_steps_resumed
    undisturbed = make(f"{tmp_path}/other")
    assert Path(resumed["staged"]).read_bytes() == Path(undisturbed["staged"]).read_bytes()


def test_two_generators_on_a_gpu_each_have_a_part_of_its_memory(
    preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", parts.append)
    for part, device in ((0.5, "cuda"), (1.0, "cuda"), (0.0, "cpu")):
        load_in_part(lambda preset, device: NoiseAvatar(), part, preset, device)
    assert parts == [0.5]
