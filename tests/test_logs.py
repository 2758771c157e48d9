import json
import logging
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines import relay
from pipelines.checkpoint import STATE
from pipelines.logs import JsonFormatter, start_json_logging, start_logging, worker_logging, working_on
from pipelines.spans import worker
from pipelines.stage import Row, Stage
from tests.checkpoints import Words, checkpoint_at
from tests.conftest import EXAMPLE

ROW: Row = {"id": "anna", "manifest": "night.csv", "row_number": 3, "status": "ready", "error_kind": "", "error": ""}
GOOD = {**EXAMPLE, "end_s": 0.5}


def test_no_record_of_ours_holds_credentials_whoever_writes_it(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("https://h/a?token=topsecret")
    except ValueError:
        logging.getLogger("pipelines.lease").exception("%s is held, %d times", "s3://a:topsecret@b", 3)
    logging.getLogger("stableavatar.avatar").warning("https://h/a?token=topsecret")
    logging.getLogger("another").warning("password=its own")
    ours, model, other = caplog.records
    assert ours.message == "s3://***@b is held, 3 times"
    assert "ValueError: https://h/a?token=***" in caplog.text and "Traceback" in caplog.text
    assert "topsecret" not in caplog.text + str(vars(ours)) + str(vars(model))
    assert other.message == "password=its own"


def test_a_record_whose_words_do_not_fit_is_left_to_its_handler() -> None:
    record = logging.getLogRecordFactory()("pipelines", logging.INFO, "", 1, "%d", ("three",), None)
    with pytest.raises(TypeError):
        record.getMessage()


class Fails(Stage):
    name = "fails"

    def process(self, row: Row) -> Row:
        raise KeyError("https://user:pass@host/a.png")


class Saves(Stage):
    name = "saves"

    def process(self, row: Row) -> Row:
        kept = checkpoint_at(row["uri"], row["folder"])
        with kept.attempt("tonight"):
            kept.offer(1, lambda: Words("one"))
        return row


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What was logged, as JSON was made of it."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(caplog.handler, "formatter", JsonFormatter())
    return lambda: [json.loads(line) for line in caplog.text.splitlines()]


def test_every_line_of_a_stage_names_the_row_and_nobodys_credentials(lines: Any) -> None:
    Fails()(ROW)
    logging.getLogger("pipelines").warning('{"token": "no JSON\nbut two lines')
    trace, end, later = lines()
    known = {"row": "anna", "manifest": "night.csv", "row_number": 3, "stage": "fails", "worker": worker()}
    assert trace.items() >= known.items() and end.items() >= known.items()
    assert (trace["level"], trace["logger"]) == ("ERROR", "pipelines.stage")
    assert "Traceback" in trace["exception"] and "https://***@host/a.png" in trace["exception"]
    assert "seconds" not in trace and 0 <= end["seconds"] < 1
    assert datetime.fromisoformat(end["time"]).utcoffset() is not None
    assert "row" not in later and "but two lines" in later["message"]


def test_threads_that_help_a_stage_name_the_row_too(
    lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, uri: str) -> None:
        raise OSError(f"no room for {STATE}")

    monkeypatch.setattr("pipelines.storage.publish", refuse)
    Saves()({**ROW, "uri": f"{tmp_path}/anna", "folder": str(tmp_path)})
    refused, _ = lines()
    assert "could not be saved" in refused["message"]
    assert (refused["row"], refused["stage"]) == ("anna", "saves")


def test_stages_inside_each_other_are_told_apart(lines: Any) -> None:
    with working_on(ROW, "generate"):
        with working_on({**ROW, "id": "ben"}, "measure"):
            logging.info("inner")
        logging.info("outer")
    logging.info("none")
    assert [(line.get("row"), line.get("stage")) for line in lines()] == [
        ("ben", "measure"), ("anna", "generate"), (None, None),
    ]  # fmt: skip


def test_lines_of_workers_pass_as_they_are_and_everything_else_becomes_json(lines: Any) -> None:
    of_worker = {"time": "now", "message": 'it said "https://h/a?token=***"'}
    strange = ['{"time": "of a library, password=hunter2', '{"password": "hunter2"}', '["time"]', "{" * 9999]
    told = [json.dumps(of_worker), "a library says password=hunter2", " ", *strange]
    relay.pass_on({"pid": 7, "ip": "10.0.0.5", "lines": [*told, '{"time": "now", "uri": "s3://a:hunter2@b"}']})
    passed, said, *others, last = lines()
    assert (passed, last) == (of_worker, {"time": "now", "uri": "s3://***@b"})
    assert (said["message"], said["worker"]) == ("a library says password=***", "10.0.0.5/7")
    assert [line["message"][:10] for line in others] == [text[:10] for text in strange]
    assert "hunter2" not in str(others)


def test_what_is_written_to_stderr_past_the_log_becomes_json() -> None:
    script = "import logging, os, sys; from pipelines import logs, relay; logs.start_json_logging(); "
    script += "relay.catch_stderr(); relay.catch_stderr(); "
    script += "os.write(2, b'[E] core_worker.cc: \\xff\\n'); print('printed', file=sys.stderr); "
    script += "logging.warning('logged'); raise OSError('the end')"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    messages = sorted(json.loads(line)["message"] for line in ended.stderr.splitlines())
    assert messages == ["[E] core_worker.cc: \ufffd", "ended by OSError", "logged", "printed"]


def test_a_stderr_that_nothing_can_be_written_to_holds_up_nobody() -> None:
    script = "import logging, sys; from pipelines import logs, relay; logs.start_json_logging(); "
    script += "logging.warning('lost'); relay.catch_stderr(); "
    script += "[(logging.warning('lost'), print('lost', file=sys.stderr)) for _ in range(1000)]; print('the end')"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "the end\n")


def test_workers_log_as_their_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_logging() is start_logging
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    monkeypatch.setattr(logging.root, "handlers", [handler])
    assert worker_logging() is start_json_logging


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--log-json"]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_ends_a_command_is_json_too(tmp_path: Path) -> None:
    ended = run("render", "missing.csv", "--output", f"{tmp_path}/out")
    assert ended.returncode == 1
    (line,) = map(json.loads, ended.stderr.splitlines())
    assert line["level"] == "ERROR" and "missing.csv does not exist" in line["message"]


@pytest.mark.slow
def test_a_run_logs_nothing_but_json_and_its_summary_stays_for_people(tmp_path: Path, ray_alone: None) -> None:
    rows = [{**GOOD, "id": "row-1"}, {**GOOD, "id": "row-2"}, {**GOOD, "id": "bad", "portrait": "missing.jpg"}]
    (tmp_path / "night.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = run("render", f"{tmp_path}/night.jsonl", "--output", f"{tmp_path}/out", "--set", "num_steps=1")
    assert ended.returncode == 2, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    done = {(line["row"], line["stage"]) for line in lines if "seconds" in line}
    stages = ("check", "prepare", "encode_text", "generate", "measure")
    assert done == {*((row, stage) for row in ("row-1", "row-2") for stage in stages), ("bad", "check")}
    assert not any(line.startswith("{") for line in ended.stdout.splitlines())
    assert "Videos: " in ended.stdout
