import argparse
import json
import os
import pty
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
from ray.exceptions import AuthenticationError, RayError

from manifests.schema import ManifestError
from pipelines import results, storage
from pipelines.cli import main, print_result
from pipelines.lease import LeaseHeld
from pipelines.observers import Observer, Observers
from pipelines.outcome import RenderResult, RowResult
from pipelines.terminal import RunError, plain_errors
from pipelines.values import moment, seconds
from pipelines.workers import ClusterError, cluster
from stableavatar.errors import BadInput
from tests.conftest import EXAMPLE, EXAMPLES
from tests.published import small, write_folder

GOOD = {**EXAMPLE, "id": "anna"}


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    rows = [GOOD, {**GOOD, "id": "bad", "portrait": "missing.jpg"}]
    storage.write("\n".join(map(json.dumps, rows)).encode(), f"{tmp_path}/night.jsonl")
    return f"{tmp_path}/night.jsonl"


def test_check_lists_good_and_bad_rows(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", manifest]) == 2
    out = capsys.readouterr().out
    assert "128x128" in out
    assert "bad bad_input: row 2 of " in out
    assert "2 rows: 1 good, 1 bad" in out
    assert main(["check", manifest, "--limit", "1"]) == 0


def test_a_dry_run_writes_nothing(manifest: str, tmp_path: Path) -> None:
    assert main(["render", manifest, "--output", f"{tmp_path}/out", "--dry-run"]) == 2
    assert not (tmp_path / "out").exists()


def test_a_dry_run_lists_what_was_left_too(manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["render", manifest, "--output", f"{tmp_path}/out", "--limit", "1", "--dry-run", "--carry-over"]
    assert main(command) == 0
    storage.write(json.dumps({**GOOD, "id": "left"}).encode(), f"{tmp_path}/out/carry-over.jsonl")
    capsys.readouterr()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.index("left ") < out.index("anna ") and "2 rows: 2 good" in out


def test_a_dry_run_of_a_night_without_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["render", f"{tmp_path}/tonight/", "--output", f"{tmp_path}/out", "--dry-run"]
    assert main([*command, "--carry-over"]) == 0
    assert "0 rows: 0 good" in capsys.readouterr().out
    assert main(command) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "missing.csv"], "missing.csv does not exist"),
        (["render", "missing.csv", "--output", "out"], "missing.csv does not exist"),
        (["render", "s3://no-such-bucket/a.csv", "--output", "out"], "s3://no-such-bucket/a.csv does not exist"),
        (["status", "/nothing/here"], "holds no results"),
    ],
)
def test_what_cannot_go_on_says_why_in_one_line(
    s3_server: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert (captured.err.count("\n"), captured.out) == (1, "")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--max-portrait-pixels=1e3", "raise --max-portrait-pixels"),
        ("--max-sound-s=0.5", "raise --max-sound-s"),
        ("--max-file-bytes=10", "raise --max-file-bytes"),
        ("--input-schemes=s3", "local file, which rows may not name"),
        ("--inputs=/srv/in", "lies outside of the folders"),
    ],
)
def test_limits_of_the_files_of_rows(
    manifest: str, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", manifest, "--limit", "1", option]) == 2
    assert message in capsys.readouterr().out
    assert main(["check", manifest, "--limit", "1", "--inputs", f"{EXAMPLES}/../examples", "--inputs=s3://b/"]) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--memory=huge", "choose from"),
        ("--limit=0", "from 1"),
        ("--separator=s3://models/kim.onnx", "s3://models/kim.onnx is not a local file"),
    ],
)
def test_wrong_options_name_what_is_right(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["check", "a.csv", option])
    assert message in capsys.readouterr().err


def test_options_stand_in_for_what_rows_do_not_say(manifest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", manifest, "--set", "window_latents=4", "--set", "overlap=4"]) == 2
    assert main(["check", manifest, "--set", "loudness=-16", "--limit", "1"]) == 0
    assert "overlap is 4 latent frames, but a window has 4" in capsys.readouterr().out
    wrong = {"steps=3": "no 'steps' to set", "num_steps=many": "give a whole number", "num_steps=": "is empty"}
    for option, message in wrong.items():
        assert main(["check", manifest, "--set", option]) == 1
        assert message in capsys.readouterr().err
    assert main(["check", manifest, "--lora", "missing.safetensors:0.5"]) == 2
    assert "missing.safetensors does not exist" in capsys.readouterr().out


def test_a_folder_of_weights_is_inspected_converted_and_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    write_folder(tmp_path / "model", small())
    assert main(["inspect", f"{tmp_path}/model"]) == 1  # smaller than what is published
    assert "transformer3d-square.pt" in capsys.readouterr().out
    assert main(["convert", f"{tmp_path}/model", f"{tmp_path}/fast"]) == 0
    assert "transformer3d-square.safetensors" in capsys.readouterr().out
    assert main(["check", "x.csv", "--model", f"{tmp_path}/empty"]) == 1
    assert main(["download", "7b", str(tmp_path)]) == 1


def heed_interrupts() -> None:
    """What a shell starts in the background is deaf to Ctrl-C, and so would be the program that the test starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_an_interrupted_run_on_a_terminal_ends_cleanly(manifest: str, tmp_path: Path, ray_alone: None) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pipelines.cli", "render", manifest, "--output", f"{tmp_path}/out"]
    command += ["--set", "num_steps=1000"]  # or it would be done before it is interrupted
    terminal: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=heed_interrupts, **terminal)
    os.close(theirs)
    shown = b""
    while b"1 running" not in shown:
        shown += os.read(ours, 4096)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait() == 1
    assert b"Interrupted." in shown
    assert b"Traceback" not in shown
    assert storage.names_in(f"{tmp_path}/out/videos") == []


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--stop-by=later", "is no time"),
        ("--stop-by=2020-01-01T06:30", "has passed"),
        ("--max-gpu-hours=0", "is not a number above 0"),
        ("--save-every-s=-1", "is not a number above 0"),
    ],
)
def test_a_run_cannot_end_in_the_past_or_never(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        main(["render", "a.csv", "--output", "out", option])
    assert message in capsys.readouterr().err


def test_a_time_of_day_is_the_next_one() -> None:
    now = datetime.now().astimezone()
    for hours in (1, 23):
        time = (now + timedelta(hours=hours)).replace(second=0, microsecond=0)
        assert moment(f"{time:%H:%M}") == time
    assert moment("2999-01-31T06:30+02:00") == datetime.fromisoformat("2999-01-31T06:30+02:00")


@pytest.mark.parametrize(
    ("evening", "until"),
    [
        (datetime(2026, 3, 28, 22), "2026-03-29T06:30+02:00"),
        (datetime(2026, 10, 24, 22), "2026-10-25T06:30+01:00"),
        (datetime(2026, 7, 1, 22), "2026-07-02T06:30+02:00"),
    ],
)
def test_a_night_on_which_clocks_change_ends_by_the_clock(
    evening: datetime, until: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evening(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromisoformat(evening.isoformat())

    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        patch.setattr("pipelines.values.datetime", Evening)
        assert moment("06:30") == datetime.fromisoformat(until)
        assert moment("06:30+12:00") == datetime.fromisoformat(f"{until[:16]}+12:00") + timedelta(days=1)
    time.tzset()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.0.0.5:6379", r"no Ray cluster can be used at 10.0.0.5:6379\..*RAY_AUTH_TOKEN\. Ray says: it sleeps"),
        (None, r"Ray did not start on this machine.*RAY_ADDRESS\. Ray says: it sleeps"),
    ],
)
@pytest.mark.parametrize("kind", [ConnectionError, AuthenticationError, Exception])
def test_a_cluster_that_cannot_be_used_is_told_with_its_address(
    address: str | None, message: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*_: object, **__: object) -> None:
        raise kind("it sleeps")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(RunError, match=message), plain_errors(), cluster():
        pass


def test_an_address_that_is_none_ends_the_command(manifest: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "render", manifest, "--output", f"{tmp_path}/out"]
    done = subprocess.run(command, env=os.environ | {"RAY_ADDRESS": "garbage"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot go on: no Ray cluster can be used at garbage"), done.stderr


def test_only_a_run_of_the_command_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write_run(f"{tmp_path}", manifest="m", model="tiny", num_rows=1)
    assert main(["retry", f"{tmp_path}"]) == 1
    assert "no run that could be repeated" in capsys.readouterr().err


def test_rows_that_a_retry_did_not_touch_are_unfinished(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"manifest": "night.csv", "row_number": 1, "error_kind": "", "error": ""}
    again = RowResult.of(row, id="anna", status="ok")
    never = RowResult.of(row, id="ben", status="unfinished")
    assert print_result(RenderResult(output="out", rows=(again, never))) == 3
    told = capsys.readouterr().out
    assert "1 rows: 1 ok" in told
    assert "Not made yet: 1 row. " in told and "Stopped" not in told


def test_rows_that_were_left_alone_count_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"manifest": "night.csv", "row_number": 1, "error_kind": "", "error": ""}
    old = RowResult.of(row, id="anna", status="ok", was_before=True)
    left = RowResult.of(row, id="strange", status="failed", error="strange", was_before=True)
    assert print_result(RenderResult(output="out", rows=(old, left))) == 2
    told = capsys.readouterr().out
    assert "2 rows: 0 ok, 1 failed, 1 already done" in told
    assert "1 of them failed in an earlier run" in told and "stableavatar retry out" in told


@pytest.mark.parametrize(("model", "num_done", "is_told"), [("tiny", 1, True), ("tiny", 2, False), ("mini", 1, False)])
@pytest.mark.parametrize("words", [[], ["--log-json"]])
def test_who_named_no_model_is_told_that_its_pictures_are_noise(
    model: str,
    num_done: int,
    is_told: bool,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def render(*_: Any, observers: list[Observer], **__: Any) -> RenderResult:
        Observers(observers).begin({"model": model, "num_rows": 3, "num_done": num_done, "left": {"internal": 1}})
        return RenderResult(output="out", rows=())

    monkeypatch.setattr("pipelines.cli.render", render)
    monkeypatch.setattr("pipelines.cli.start_logging", lambda *_: None)
    monkeypatch.setattr("pipelines.cli.is_json", lambda: bool(words))
    assert main(["render", "night.csv", "--output", "out", "--model", model, *words]) == 0
    said = "its pictures are noise. Name a model"
    assert (said in capsys.readouterr().out, said in caplog.text) == (is_told and not words, is_told and bool(words))


@pytest.mark.parametrize("text", ["0", "0.0", "0.00", "0.", " 00 "])
def test_zero_seconds_in_any_spelling(text: str) -> None:
    assert seconds(text) == 0.0
    assert seconds("1.50") == 1.5
    for wrong in ("-1", "nan", "inf", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            seconds(wrong)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ClusterError("Add a node."), "Add a node."),
        (LeaseHeld("Wait for it."), "Wait for it."),
        (RayError("first\nlast"), "Ray failed: last"),
        (RayError(), "Ray failed: RayError"),
    ],
)
def test_what_ends_a_run_on_ray_is_told_in_one_line(error: Exception, message: str) -> None:
    with pytest.raises(RunError) as told, plain_errors():
        raise error
    assert str(told.value) == message


def test_no_command_prints_the_credentials_of_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = "memory://anna:topsecret@host/out"
    assert [main([command, output]) for command in ("status", "report", "retry")] == [1, 1, 1]
    results.write_run(output, manifest="m", model="tiny", num_rows=1)
    assert [main(words) for words in (["status", output], ["status", output, "--json"], ["report", output])] == [0] * 3
    row = {"manifest": "night.csv", "row_number": 1, "error_kind": "", "error": "", "id": "anna"}
    rows = (RowResult.of(row, status="failed", was_before=True), RowResult.of(row, status="unfinished"))
    print_result(RenderResult(output=output, rows=rows, stopped=f"another run has taken over {output}"))
    told = "".join(capsys.readouterr())
    assert told.count("memory://***@host/out") > 8  # three refusals, status, report, and the rest of the run
    assert "topsecret" not in told + storage.read(f"{output}/report.html").decode()


@pytest.mark.parametrize("error", [BadInput, ManifestError, LeaseHeld, ClusterError, RayError])
def test_no_error_that_ends_a_run_tells_credentials(error: type[Exception]) -> None:
    with pytest.raises(Exception, match=r"s3://\*\*\*@bucket") as told, plain_errors():
        raise error("s3://anna:topsecret@bucket")
    assert "topsecret" not in str(told.value)


def test_a_cluster_that_is_not_there_ends_every_command_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object) -> None:
        raise ClusterError("no cluster answers")

    monkeypatch.setattr("pipelines.draw_data.cluster", unreachable)
    assert main(["draw-data", str(tmp_path), "--clips", "1"]) == 1
    assert "no cluster answers" in capsys.readouterr().err
