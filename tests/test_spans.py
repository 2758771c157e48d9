import os
import time
from pathlib import Path

from pipelines import storage
from pipelines.spans import spans_of, worker
from pipelines.stage import Row, Stage

ROW: Row = {"id": "anna", "manifest": "night.csv", "row_number": 3, "status": "ready", "error_kind": "", "error": ""}


class Reads(Stage):
    name = "reads"

    def process(self, row: Row) -> Row:
        return {**row, "content": storage.read(row["file"])}


class Writes(Stage):
    name = "writes"

    def process(self, row: Row) -> Row:
        storage.write(b"1234567", row["file"])
        return row


def test_a_row_tells_of_each_stage_when_where_and_what_it_moved(tmp_path: Path) -> None:
    before = time.time()
    row = Reads()(Writes()({**ROW, "file": f"{tmp_path}/file"}))
    first, second = spans_of(row)
    assert (first.stage, first.bytes_written, first.bytes_read) == ("writes", 7, 0)
    assert (second.stage, second.bytes_written, second.bytes_read) == ("reads", 0, 7)
    assert before <= first.started_at <= second.started_at <= time.time()
    assert second.seconds == row["reads_s"]
    assert first.worker == second.worker == worker()
    assert worker().endswith(f"/{os.getpid()}")


def test_a_stage_that_fails_tells_it_too_and_one_that_is_passed_does_not(tmp_path: Path) -> None:
    row = Writes()(Reads()({**ROW, "file": f"{tmp_path}/missing"}))
    assert row["status"] == "failed"
    assert [span.stage for span in spans_of(row)] == ["reads"]


def test_no_stage_no_spans() -> None:
    assert spans_of(ROW) == []
    assert spans_of({"spans": None}) == []
