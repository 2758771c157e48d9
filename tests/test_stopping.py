"""Runs that end early, and those that go on from there: the command itself, in processes of its own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import results, storage
from pipelines.cli import main
from pipelines.status import read_status
from tests.conftest import EXAMPLE

ROW = {**EXAMPLE, "end_s": 0.5}


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    rows = [{**ROW, "id": "long", "num_steps": 200}, {**ROW, "id": "urgent", "num_steps": 2, "priority": 1}]
    rows += [{**ROW, "id": "short", "num_steps": 2}]
    (tmp_path / "night.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"{tmp_path}/night.jsonl"


def start(*words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipelines.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*words: str) -> tuple[int, str, str]:
    process = start(*words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


# Rows of the same run may overtake each other on their way to the generator, so `urgent` is mostly, not surely, done.
@pytest.mark.slow
def test_a_run_drains_when_it_is_told_to_and_the_next_one_goes_on(
    ray_alone: None, manifest: str, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"{bucket}/out"
    first = start("render", manifest, "--output", output)
    deadline = time.monotonic() + 200
    while not stem(output, "long") and time.monotonic() < deadline:
        time.sleep(0.5)

    assert main(["render", manifest, "--output", output]) == 1
    err = capsys.readouterr().err
    assert "works there" in err and "give this one another output" in err
    seen = read_status(output)
    assert seen.is_running and seen.num_rows == 3

    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=200)
    assert first.returncode == 3, err
    before = {row["id"] for row in results.read_results(output).to_pylist()}
    left = {"long", "urgent", "short"} - before
    assert before <= {"urgent"}
    assert f"SIGTERM was received: {len(left)} rows are unfinished" in out
    carried_over = [json.loads(line) for line in storage.read(f"{output}/carry-over.jsonl").splitlines()]
    assert {row["id"] for row in carried_over} == left
    assert "state.safetensors" in storage.names_in(f"{output}/checkpoints/{stem(output, 'long')}")
    seen = read_status(output)
    assert (seen.is_running, seen.num_ok, seen.num_unfinished) == (False, len(before), len(left))

    code, out, err = run("render", manifest, "--output", output)
    assert code == 0, err
    assert f"3 rows: {len(left)} ok, 0 failed, {len(before)} already done" in out
    table = {row["id"]: row for row in results.read_results(output).to_pylist()}
    assert {id: row["attempts"] for id, row in table.items()} == {"long": 2, "urgent": 1, "short": 1}
    assert not storage.exists(f"{output}/carry-over.jsonl")
    assert storage.folders_in(f"{output}/checkpoints") == storage.folders_in(f"{output}/lease") == []


def stem(output: str, id: str) -> str:
    """The name under which a row's checkpoint lies, empty if there is none."""
    names = storage.folders_in(f"{output}/checkpoints")
    return next((name for name in names if name.startswith(f"{id}-")), "")


@pytest.mark.slow
def test_a_run_whose_hours_are_used_up_begins_nothing_new(
    ray_cluster: None, manifest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", manifest, "--output", f"{tmp_path}/out", "--max-gpu-hours", "1e-9"]) == 3
    assert "1e-09 GPU hours are used up: 3 rows are unfinished" in " ".join(capsys.readouterr().out.split())
    assert storage.names_in(f"{tmp_path}/out/videos") == []
