import logging
from typing import Any

import pytest

from manifests.redact import redacted
from pipelines.check import Check
from pipelines.encode_text import EncodeText
from pipelines.generate import Generate
from pipelines.measure import Measure
from pipelines.prepare import Prepare
from pipelines.separate import Separate
from pipelines.stage import STAGES, Row, Stage, fail, reason_of
from stableavatar.errors import BadInput

ROW: Row = {"id": "anna", "manifest": "night.csv", "row_number": 3, "status": "ready", "error_kind": "", "error": ""}


class Strange(Stage):
    name = "strange"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def process(self, row: Row) -> Row:
        if self.error:
            raise self.error
        return {**row, "new": 1}


def test_a_good_row_gets_columns_seconds_and_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    row = Strange()({**ROW})
    assert row["new"] == 1
    assert 0 <= row["strange_s"] < 1
    assert [record.getMessage() for record in caplog.records] == [f"anna strange {row['strange_s']:.2f} s done"]


def test_a_failed_row_passes_untouched() -> None:
    failed = {**ROW, "status": "failed", "error": "earlier"}
    assert Strange(ValueError())(failed) == failed


def test_an_error_of_the_row_is_data_and_names_the_row() -> None:
    row = Strange(BadInput("a.png is not an image."))({**ROW, "speech": b"much"})
    assert (row["status"], row["error_kind"], row["stage"]) == ("failed", "bad_input", "strange")
    assert row["error"] == "row 3 of night.csv: a.png is not an image."
    assert "speech" not in row


def test_an_unexpected_error_fails_the_row_alone_and_is_logged_with_its_traceback(caplog: Any) -> None:
    row = Strange(KeyError("oops"))({**ROW})
    assert row["error_kind"] == "internal"
    assert "unexpected KeyError: 'oops'" in row["error"]
    assert "Traceback" in caplog.text


def test_the_error_of_a_row_holds_no_credentials() -> None:
    row = Strange(BadInput("https://host/a.png?X-Amz-Signature=5ec2e7 does not exist."))({**ROW})
    assert row["error"] == "row 3 of night.csv: https://host/a.png?X-Amz-Signature=*** does not exist."


def test_the_stages_are_those_that_there_are() -> None:
    assert tuple(stage.name for stage in (Check, Prepare, Separate, EncodeText, Generate, Measure)) == STAGES


@pytest.mark.parametrize("manifest", ["night.csv", "https://anna:secret@host/night.csv?sig=verysecret"])
def test_the_reason_of_a_failure_is_what_it_was_told(manifest: str) -> None:
    row = fail({**ROW, "manifest": manifest}, "prepare", "bad_input", "the sky: it is blue")
    assert row["error"].startswith("row 3 of ")
    assert reason_of(row) == reason_of({**row, "manifest": redacted(manifest)}) == "the sky: it is blue"
