import logging
from typing import Any

import pytest

from pipelines.observers import Observer, Observers
from pipelines.outcome import RunReport

REPORT = RunReport(finished=[], unfinished=[], left=[], done=[], stopped="")


class Hears(Observer):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def begin(self, run: Any) -> None:
        self.heard.append(run)

    def tick(self, facts: Any) -> None:
        self.heard.append(facts)

    def finished(self, row: Any) -> None:
        self.heard.append(row)

    def end(self, report: Any) -> None:
        self.heard.append(report)

    def close(self) -> None:
        self.heard.append("closed")


class Breaks(Hears):
    def __getattribute__(self, name: str) -> Any:
        if name in ("begin", "tick", "finished", "end", "close"):
            raise RuntimeError("the dashboard is down")
        return super().__getattribute__(name)


def test_everyone_hears_everything_whatever_befalls_the_others(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Hears(), Hears()
    observers = Observers([first, Breaks(), last])
    observers.begin({"output": "out"})
    observers.tick({"num_rows": 3})
    observers.finished({"id": "anna"})
    observers.end(REPORT)
    observers.close()
    assert first.heard == last.heard == [{"output": "out"}, {"num_rows": 3}, {"id": "anna"}, REPORT, "closed"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 5
    assert "Breaks failed; the run goes on" in caplog.text
