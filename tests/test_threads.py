import logging

import pytest

from pipelines.logs import at_work, working_on
from pipelines.retries import patience, steadily
from pipelines.threads import helpers
from stableavatar.errors import NetworkError

ROW = {"id": "anna", "manifest": "night.csv", "row_number": 3}


def fail() -> None:
    raise TimeoutError


def test_helpers_work_on_the_same_row_and_are_as_patient(caplog: pytest.LogCaptureFixture) -> None:
    with working_on(ROW, "check"), patience(0.0), helpers(2) as threads:
        assert [work["row"] for work in threads.map(lambda _: at_work.get(), range(8))] == ["anna"] * 8
        with caplog.at_level(logging.WARNING), pytest.raises(NetworkError):
            threads.submit(steadily, "s3://bucket/name", fail).result(timeout=30)
    assert "trying again" not in caplog.text
    assert at_work.get() == {}
