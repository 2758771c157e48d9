import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import plan, receiver, render, results, retry, webhooks
from pipelines.arguments import api_arguments, parser
from pipelines.cli import main
from pipelines.lines import read_lines
from pipelines.outcome import RunReport
from pipelines.results import WriteResult
from pipelines.run import Options
from pipelines.stage import Row
from pipelines.webhooks import SECRET, UNDELIVERED, Webhooks, row_finished
from stableavatar.errors import BadInput
from tests import receivers
from tests.receivers import Inbox, serve

STARTED = "2026-01-31T00:00:00.000001+00:00"
REPORT = RunReport(finished=[], unfinished=[], left=[], done=[], stopped="")


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with serve() as inbox:
        yield inbox


@pytest.fixture(autouse=True)
def _secret_and_no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, receivers.SECRET)
    monkeypatch.setattr(receiver, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(receiver, "LAST_WAIT_S", 0.01)


@pytest.fixture
def down() -> str:
    """An address where nobody listens."""
    return "http://127.0.0.1:9/down?token=T0KEN"


def row(id: str = "anna", **cells: Any) -> Row:
    """A row as it comes out of the last stage but one."""
    made = {"manifest": "/m/night.jsonl", "row_number": 1, "id": id, "content_id": "0123456789abcdef" * 2}
    made |= {"status": "ready", "error_kind": "", "error": "", "stage": "", "video": f"/out/videos/{id}.mp4"}
    return made | {"attempts": 1, "gpu_s": 2.5, "num_frames": 81, "started_at": 1.5e9, "carried": plan.pack({})} | cells


def finish(output: Path, *rows: Row) -> list[Row]:
    """The rows as the run hears of them when they are in the result table."""
    return list(map(WriteResult(str(output), pa.schema([])), rows))


def begun(output: Path, *urls: str, started_at: str = STARTED) -> Webhooks:
    observer = Webhooks(urls)
    run = {"manifest": "/m/night.jsonl", "model": "tiny", "num_rows": 2, "started_at": started_at}
    observer.begin({"output": str(output), **run})
    return observer


def announce(
    output: Path, urls: list[str], rows: list[Row], report: RunReport = REPORT, started_at: str = STARTED
) -> None:
    """A whole run."""
    observer = begun(output, *urls, started_at=started_at)
    for finished in rows:
        observer.finished(finished)
    observer.end(report)
    observer.close()


def undelivered(output: Path) -> list[dict[str, Any]]:
    return read_lines(str(output / UNDELIVERED))


def test_each_row_and_the_end_of_the_run_are_announced(inbox: Inbox, tmp_path: Path) -> None:
    bad = row("bert", status="failed", error_kind="bad_input", error="row 2: no sound", stage="check", video=None)
    good, failed = finish(tmp_path, row(), bad)
    report = replace(
        REPORT, finished=[good, failed], unfinished=[row("carl")], done=[row("dora")] * 4, stopped="SIGTERM"
    )
    announce(tmp_path, [inbox.url], [good, failed], report)
    first, second, last = inbox.events()
    assert [event["type"] for event in (first, second, last)] == ["row.finished", "row.finished", "run.finished"]
    assert first["timestamp"] == first["data"]["finished_at"] > first["data"]["started_at"]
    made = {"id": "anna", "status": "ok", "error_kind": None, "video": "/out/videos/anna.mp4"}
    assert made.items() <= first["data"].items()
    lost = {"id": "bert", "status": "failed", "error_kind": "bad_input", "video": None}
    assert lost.items() <= second["data"].items()
    counts = {"num_ok": 1, "num_failed": 1, "num_left": 0, "num_unfinished": 1, "num_done_before": 4}
    told = {"output": str(tmp_path), "stopped": "SIGTERM", "started_at": STARTED}
    assert (counts | told).items() <= last["data"].items()
    assert undelivered(tmp_path) == [] and not (tmp_path / UNDELIVERED).exists()


def test_the_same_outcome_has_the_same_id_and_another_has_another(tmp_path: Path) -> None:
    (heard,) = finish(tmp_path, row())
    (read,) = results.read_results(str(tmp_path)).to_pylist()
    event = row_finished(str(tmp_path), heard)
    assert row_finished(str(tmp_path), read) == event
    assert row_finished(str(tmp_path), {**heard, "attempts": 3, "finished_at": 2e9})["id"] == event["id"]
    failed = {**heard, "status": "failed", "error_kind": "network", "video": None}
    others = [failed, {**failed, "error_kind": "storage"}, {**heard, "id": "bert"}, {**heard, "content_id": "f" * 32}]
    ids = {row_finished(str(tmp_path), other)["id"] for other in others}
    assert len(ids | {event["id"], row_finished("/elsewhere", heard)["id"]}) == 6


def test_rows_that_failed_before_their_content_was_known_have_ids_by_their_place(tmp_path: Path) -> None:
    unread = row(content_id="", status="failed", error_kind="bad_input", video=None)
    ids = {row_finished("/out", {**unread, "row_number": number})["id"] for number in (1, 2)}
    assert len(ids) == 2


def test_one_that_is_down_keeps_nothing_from_the_others_and_delays_no_row(
    inbox: Inbox, tmp_path: Path, down: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = finish(tmp_path, *(row(f"row-{number}") for number in range(50)))
    observer = begun(tmp_path, down, inbox.url)
    started = time.monotonic()
    for finished in rows:
        observer.finished(finished)
    observer.end(REPORT)
    assert time.monotonic() - started < 1
    inbox.wait_for(51)
    observer.close()
    lines = undelivered(tmp_path)
    assert len(lines) == 51 and {line["event"]["id"] for line in lines} == set(inbox.ids())
    assert {line["receiver"] for line in lines} == {next(iter(observer.receivers))}
    assert "51 undelivered" in caplog.text


def test_what_was_undelivered_is_sent_first_by_the_next_run(inbox: Inbox, tmp_path: Path) -> None:
    anna, bert = finish(tmp_path, row(), row("bert"))
    inbox.answer = lambda number: (503, {})
    announce(tmp_path, [inbox.url], [anna])
    before = {line["event"]["id"] for line in undelivered(tmp_path)}
    assert len(before) == 2
    inbox.requests.clear()
    inbox.answer = lambda number: (200, {})
    announce(tmp_path, [inbox.url], [bert], started_at="2026-02-01T00:00:00+00:00")
    assert set(inbox.ids()[:2]) == before
    assert [event["type"] for event in inbox.events()[2:]] == ["row.finished", "run.finished"]
    assert undelivered(tmp_path) == []


def test_lines_of_receivers_that_this_run_does_not_have_stay(inbox: Inbox, tmp_path: Path, down: str) -> None:
    announce(tmp_path, [down], finish(tmp_path, row()))
    left = undelivered(tmp_path)
    announce(tmp_path, [inbox.url], [])
    assert undelivered(tmp_path) == left


def test_after_a_kill_the_next_run_announces_what_finished_since(inbox: Inbox, tmp_path: Path) -> None:
    (old,) = finish(tmp_path, row("old"))
    killed = begun(tmp_path, inbox.url, started_at=datetime.now(UTC).isoformat())
    heard, unheard = finish(tmp_path, row("heard"), row("unheard"))
    killed.finished(heard)
    inbox.wait_for(1)
    announce(tmp_path, [inbox.url], [])
    ids = [row_finished(str(tmp_path), each)["id"] for each in (heard, unheard)]
    assert inbox.ids()[0] == ids[0] and inbox.ids()[1:-1] == ids, "in the order in which they finished"
    assert row_finished(str(tmp_path), old)["id"] not in inbox.ids()
    assert undelivered(tmp_path) == []


def test_a_run_that_breaks_off_leaves_word_that_rows_may_be_unannounced(inbox: Inbox, tmp_path: Path) -> None:
    observer = begun(tmp_path, inbox.url)
    (key,) = observer.receivers
    observer.close()
    assert undelivered(tmp_path) == [{"receiver": key, "rows_since": STARTED}]
    finish(tmp_path, row())
    announce(tmp_path, [inbox.url], [])
    assert [event["type"] for event in inbox.events()] == ["row.finished", "run.finished"]
    assert undelivered(tmp_path) == []


def test_more_than_fits_is_announced_by_the_next_run(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = finish(tmp_path, *(row(f"row-{number}") for number in range(5)))
    inbox.answer = lambda number: (503, {})
    monkeypatch.setattr(receiver, "MAX_WAITING", 2)
    announce(tmp_path, [inbox.url], rows)
    assert ["rows_since" in line for line in undelivered(tmp_path)] == [False, False, False, True]
    monkeypatch.undo()
    monkeypatch.setenv(SECRET, receivers.SECRET)
    inbox.requests.clear()
    inbox.answer = lambda number: (200, {})
    announce(tmp_path, [inbox.url], [])
    assert {row_finished(str(tmp_path), each)["id"] for each in rows} < set(inbox.ids())
    assert undelivered(tmp_path) == []


def test_lines_that_could_not_be_read_in_the_beginning_are_kept(
    inbox: Inbox, tmp_path: Path, down: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(tmp_path, [down], finish(tmp_path, row()))
    left = undelivered(tmp_path)
    with monkeypatch.context() as context:
        context.setattr(webhooks, "read_lines", lambda uri: 1 / 0)
        observer = Webhooks([down])
        with pytest.raises(ZeroDivisionError):  # which `Observers` logs
            observer.begin({"output": str(tmp_path), "started_at": STARTED})
    observer.close()
    assert undelivered(tmp_path) == [*left, {"receiver": left[0]["receiver"], "rows_since": STARTED}]


def test_what_fails_in_the_beginning_is_made_up_for_by_the_next_run(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, inbox.url)  # and killed
    finish(tmp_path, row())
    with monkeypatch.context() as context:
        context.setattr(results, "read_results", lambda output: 1 / 0)
        observer = Webhooks([inbox.url])
        with pytest.raises(ZeroDivisionError):
            observer.begin({"output": str(tmp_path), "started_at": "2026-02-01T00:00:00+00:00"})
    assert [line["rows_since"][:10] for line in undelivered(tmp_path)] == ["2026-01-31", "2026-02-01"]  # were it killed
    observer.close()
    announce(tmp_path, [inbox.url], [])
    assert [event["type"] for event in inbox.events()] == ["row.finished", "run.finished"]
    assert undelivered(tmp_path) == []


def test_one_that_never_began_leaves_nothing(tmp_path: Path, down: str) -> None:
    Webhooks([down]).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("secret", [None, "", " , "])
def test_without_a_secret_nothing_begins(secret: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET)
    with pytest.raises(BadInput, match=f"Set {SECRET}"):
        Webhooks(["https://host/x"], secret)


def test_a_command_without_a_secret_ends_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(SECRET)
    words = ["render", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "out"), "--webhook", "https://host/T0KEN"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert SECRET in said and "T0KEN" not in said and not (tmp_path / "out").exists()


def test_an_address_given_twice_hears_everything_once(inbox: Inbox, tmp_path: Path) -> None:
    announce(tmp_path, [inbox.url, inbox.url], finish(tmp_path, row()))
    assert len(inbox.requests) == 2


def test_addresses_that_differ_in_their_credentials_alone_need_names(inbox: Inbox, tmp_path: Path) -> None:
    urls = [f"{inbox.url}?token=T0KEN{number}" for number in (1, 2)]
    with pytest.raises(BadInput, match="#first, #second") as error:
        Webhooks(urls)
    assert "T0KEN" not in str(error.value)
    announce(tmp_path, [f"{urls[0]}#first", f"{urls[1]}#second"], finish(tmp_path, row()))
    assert len(inbox.requests) == 4 and len(set(inbox.ids())) == 2


def test_no_credentials_in_files_payloads_or_logs(
    inbox: Inbox, tmp_path: Path, down: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    named = {"video": "https://host/a.mp4?token=T0KEN", "manifest": "s3://T0KEN:T0KEN@b/m.jsonl"}
    heard = [{**each, **named} for each in finish(tmp_path, row())]
    announce(tmp_path, [inbox.url, down], heard)
    sent = b"".join(body for _, body in inbox.requests).decode()
    written = (tmp_path / UNDELIVERED).read_text()
    assert "token=***" in sent and "token=***" in written
    assert not any(word in sent + written + caplog.text for word in ("T0KEN", "/down", receivers.SECRET[6:]))


def test_addresses_are_given_to_each_command_and_noted_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Options] = []

    def run(*_: Any, options: Options, **__: Any) -> RunReport:
        called.append(options)
        return REPORT

    monkeypatch.setattr("pipelines.run.run", run)
    output = ["--output", str(tmp_path), "--webhook", "https://a/T0KEN"]
    render(**api_arguments(parser().parse_args(["render", "m.jsonl", *output])))
    (options,) = called
    assert "T0KEN" not in json.dumps(options.arguments)
    assert [observer for observer in options.observers if isinstance(observer, Webhooks)]
    results.write_run(str(tmp_path), manifest="m.jsonl", model="tiny", num_rows=1, arguments=options.arguments)
    addresses = ["--webhook", "https://a/x", "--webhook", "https://b/y"]
    retry(**api_arguments(parser().parse_args(["retry", str(tmp_path), *addresses])))
    (observer,) = (each for each in called[-1].observers if isinstance(each, Webhooks))
    assert [each.url for each in observer.receivers.values()] == addresses[1::2]
    retry(str(tmp_path))
    assert not any(isinstance(each, Webhooks) for each in called[-1].observers)
