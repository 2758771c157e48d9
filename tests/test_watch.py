import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines.stage import Row
from pipelines.watch import Bounds, Watch


class Handle:
    """What the Progress actor's handle looks like."""

    def __init__(self) -> None:
        self.stop = self
        self.num_stops = 0

    def remote(self) -> None:
        self.num_stops += 1


def rows(*numbers: int) -> Iterator[Row]:
    for number in numbers:
        yield {"manifest": "m", "row_number": number}


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sigterm_is_a_reason_and_the_generators_are_told() -> None:
    before = signal.getsignal(signal.SIGTERM)
    handle = Handle()
    with Watch(Bounds()) as watch:
        watch.begin(handle, 1, lambda: None)
        assert watch.reason == ""
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: watch.reason)
        until(lambda: handle.num_stops)
    assert watch.reason == "SIGTERM was received"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_time_that_has_come_is_a_reason() -> None:
    now = datetime.now(UTC)
    with Watch(Bounds(stop_by=now + timedelta(hours=1))) as watch:
        assert watch.reason == ""
    with Watch(Bounds(stop_by=now - timedelta(seconds=1))) as watch:
        assert watch.reason.startswith("it is ")


def test_gpu_hours_count_from_when_the_generators_start() -> None:
    with Watch(Bounds(max_gpu_hours=1e-9)) as watch:
        time.sleep(0.1)
        watch._look()
        assert watch.reason == ""
        watch.begin(Handle(), 8, lambda: None)
        until(lambda: watch.reason)
    assert watch.reason == "1e-09 GPU hours are used up"


def test_there_may_be_other_reasons() -> None:
    with Watch(Bounds(), lambda: "another run has taken over") as watch:
        assert watch.reason == "another run has taken over"


def test_ticks_go_on_whatever_they_raise() -> None:
    ticks = []

    def tick() -> None:
        ticks.append(1)
        raise OSError("the store is gone")

    with Watch(Bounds()) as watch:
        watch.begin(Handle(), 1, tick)
        until(lambda: len(ticks) > 1)


def test_a_tick_that_blocks_keeps_no_signal_from_being_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.watch.LEAVE_S", 0.2)
    blocked, go_on = threading.Event(), threading.Event()

    def tick() -> None:
        blocked.set()
        go_on.wait(30)

    began = time.monotonic()
    with Watch(Bounds()) as watch:
        watch.begin(Handle(), 1, tick)
        assert blocked.wait(10)
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: watch.reason)
    assert time.monotonic() - began < 20
    go_on.set()


def test_all_rows_come_if_nothing_stops_the_run() -> None:
    with Watch(Bounds()) as watch:
        assert [row["row_number"] for row in watch.until_drained(rows(1, 2, 3))] == [1, 2, 3]


def test_what_has_begun_is_waited_for_and_nothing_else() -> None:
    stuck = threading.Event()

    def coming() -> Iterator[Row]:
        yield from rows(1, 2, 3)
        stuck.wait()

    with Watch(Bounds(), stop_flows=stuck.set) as watch:
        came = []
        for row in watch.until_drained(coming(), lambda: [("m", 1), ("m", 2)]):
            came.append(row["row_number"])
            watch.reason = "enough"
    assert stuck.is_set()
    assert came == [1, 2]


def test_what_has_begun_may_be_unknown_for_a_while() -> None:
    stuck = threading.Event()
    asked: list[int] = []

    def coming() -> Iterator[Row]:
        yield from rows(1, 2)
        stuck.wait()

    def begun() -> list[tuple[str, int]]:
        asked.append(1)
        if len(asked) < 3:
            raise TimeoutError
        return [("m", 1), ("m", 2)]

    with Watch(Bounds(), lambda: "enough", stuck.set) as watch:
        assert [row["row_number"] for row in watch.until_drained(coming(), begun)] == [1, 2]
    assert len(asked) >= 3


def test_a_run_that_waits_for_ray_still_stops() -> None:
    stuck = threading.Event()

    def coming() -> Iterator[Row]:
        stuck.wait()
        yield from rows(1)

    with Watch(Bounds(), lambda: "enough", stuck.set) as watch:
        assert list(watch.until_drained(coming())) == []


def test_a_run_that_ends_by_an_error_ends_its_flow() -> None:
    stuck = threading.Event()

    def coming() -> Iterator[Row]:
        yield from rows(1, 2)
        stuck.wait()

    def run() -> None:
        with Watch(Bounds(), stop_flows=stuck.set) as watch:
            for _ in watch.until_drained(coming()):
                raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        run()
    assert stuck.is_set()


def test_a_flow_whose_rows_have_all_come_is_not_stopped_nor_is_the_next_one() -> None:
    stopped = threading.Event()
    with Watch(Bounds(), stop_flows=stopped.set) as watch:
        for _ in range(2):
            assert len(list(watch.until_drained(rows(1, 2)))) == 2
    assert not stopped.is_set()


def test_an_error_on_the_way_reaches_who_waits() -> None:
    def coming() -> Iterator[Row]:
        yield from rows(1)
        raise ValueError("no more")

    with Watch(Bounds()) as watch, pytest.raises(ValueError, match="no more"):
        list(watch.until_drained(coming()))


def test_a_pause_ends_when_the_run_is_to_stop() -> None:
    with Watch(Bounds(), lambda: "enough") as watch:
        started = time.monotonic()
        watch.pause(60)
        assert time.monotonic() - started < 30
