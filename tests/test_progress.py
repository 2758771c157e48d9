import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from rich.console import Console

from pipelines.display import Display
from pipelines.estimate import Estimate
from pipelines.progress import SILENT_S, Progress, Reporter, Running, snapshot
from tests.actors import Direct, Silent

MakeRow = Callable[..., dict[str, Any]]


def planned(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "num_windows": 4, "window_latents": 21, "width": 128, "height": 128, "num_steps": 10}


def test_windows_count_in_parts_and_messages_are_few(make_row: MakeRow) -> None:
    progress = Progress()
    listener = Direct(progress)
    with Reporter(listener).running(planned(make_row())) as on_progress:
        for _ in range(25):
            on_progress(1)
        assert [row.num_windows for row in progress.snapshot().running] == [4]
    assert (progress.snapshot().windows_done, progress.snapshot().running) == (2.5, ())
    assert listener.calls == 3


def test_without_a_listener_nothing_happens(make_row: MakeRow) -> None:
    with Reporter().running(planned(make_row())) as on_progress:
        on_progress(1)


def test_the_display_says_what_is_done_what_runs_and_how_long_it_takes(make_row: MakeRow) -> None:
    progress = Progress()
    rows = [planned(make_row(row_number=number)) for number in (1, 2, 3, 4)]
    display = Display(rows, Estimate(), progress.snapshot, Console(width=100))
    display.began -= 100
    display.finished({**rows[0], "status": "ok"})
    display.finished({**rows[1], "status": "failed"})
    with Reporter(Direct(progress)).running(rows[2]) as on_progress:
        on_progress(20)  # too soon after the start to be told
        progress.report(
            Running(id="anna", place=(rows[2]["manifest"], 3), windows_done=2.0, num_windows=4, saved_at=time.time())
        )
        assert display.line() == "2/4 rows done, 1 failed, 1 running | 0.02 windows/s | 0:01:00 left"
        console = Console(width=100, record=True)
        console.print(display.render())
        assert "anna  2.0 of 4 windows" in console.export_text()


def test_no_row_begins_once_the_run_is_to_stop_and_what_runs_hears_of_it(
    make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.REPORT_EVERY_S", 0.0)
    progress = Progress()
    reporter = Reporter(Direct(progress))
    row = planned(make_row())
    assert reporter.may_begin(row)
    assert progress.snapshot().begun == {(row["manifest"], 3)}
    with reporter.running(row) as on_progress:
        on_progress(1)
        assert not reporter.is_stopping
        progress.stop()
        on_progress(1)
        on_progress(1)  # a generator hears the answer to its report with the next one
        assert reporter.is_stopping
    assert not reporter.may_begin({**row, "row_number": 4})
    assert progress.snapshot().num_retries == 0
    assert progress.snapshot().begun == {(row["manifest"], 3)}


def test_the_display_tells_machines_the_same(make_row: MakeRow) -> None:
    row = planned(make_row())
    display = Display([row], Estimate(), Progress().snapshot, Console(width=100))
    assert display.line() == "0/1 rows done, 0 failed | loading the models"
    display.finished({"manifest": row["manifest"], "row_number": 3, "status": "failed", "error_kind": "network"})
    display.finished({**row, "status": "ok", "sample_s": 3.0, "generate_s": 4.0})  # in the next round
    facts = display.facts()
    assert (facts["num_ok"], facts["num_failed"], facts["num_rows"], facts["seconds_left"]) == (1, 0, 1, 0.0)


def test_a_row_that_is_begun_once_more_is_a_retry_also_in_a_later_round(make_row: MakeRow) -> None:
    progress = Progress()
    reporter = Reporter(Direct(progress))
    for number in (3, 4, 3):
        assert reporter.may_begin(make_row(row_number=number))
    progress.begin_round()
    assert reporter.may_begin(make_row(row_number=4))
    assert progress.snapshot().num_retries == 2


def test_what_an_earlier_run_made_is_neither_made_now_nor_quick(
    make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.REPORT_EVERY_S", 0.0)
    progress = Progress()
    rows = [{**planned(make_row(row_number=number)), "num_windows": 100} for number in (1, 2)]
    display = Display(rows, Estimate(), progress.snapshot, Console(width=100))
    reporter = Reporter(Direct(progress))
    assert reporter.may_begin(rows[0])
    with reporter.running(rows[0]) as on_progress:
        reporter.resumed(900)  # window-steps, of 1000
        on_progress(900)
        facts = display.facts()
        assert (facts["windows_done"], facts["windows_per_s"], facts["seconds_left"]) == (0.0, 0.0, None)
        assert facts["running"][0]["windows_done"] == 90.0
        display.began = time.monotonic() - 5.0
        on_progress(50)
        facts = display.facts()
        assert facts["windows_done"] == 5.0
        assert facts["windows_per_s"] == pytest.approx(1.0, rel=0.1)
        assert facts["seconds_left"] == pytest.approx(105.0, rel=0.1)
        on_progress(50)
    display.finished({**rows[0], "status": "ok"})
    display.began = time.monotonic() - 10.0
    facts = display.facts()
    assert facts["windows_done"] == 10.0
    assert facts["seconds_left"] == pytest.approx(100.0, rel=0.1)


def test_what_this_run_made_counts_once_when_the_row_is_begun_again(make_row: MakeRow) -> None:
    row, progress = planned(make_row()), Progress()
    first, second = (Reporter(Direct(progress)) for _ in range(2))
    assert first.may_begin(row)
    with suppress(ConnectionError), first.running(row) as on_progress:
        on_progress(20)
        first._tell(row, 20)
        first.listener = None  # its process died
        raise ConnectionError
    assert second.may_begin(row)
    assert progress.snapshot().windows_done == 2.0
    with second.running(row) as on_progress:
        second.resumed(20)
        on_progress(20)
        on_progress(10)
    assert progress.snapshot().windows_done == 3.0
    assert progress.snapshot().resumed == {}
    with second.running(row) as on_progress:  # memory ran out, and the state was lost
        second.resumed(20)
        on_progress(-20)
    assert progress.snapshot().windows_done == 3.0


def test_what_is_not_heard_of_for_long_no_longer_counts_as_begun(
    make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.progress.REPORT_EVERY_S", 0.0)
    passed = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + passed[0])
    progress = Progress()
    reporter = Reporter(Direct(progress))
    rows = [planned(make_row(row_number=number)) for number in (3, 4)]

    def begun() -> list[int]:
        return sorted(number for _, number in progress.snapshot().begun)

    assert all(map(reporter.may_begin, rows))
    passed[0] += SILENT_S - 1
    with reporter.running(rows[1]) as on_progress:
        assert begun() == [3, 4]
        passed[0] += SILENT_S - 1
        assert begun() == [4]
        on_progress(1)
        passed[0] += SILENT_S - 1
        assert begun() == [4]
    passed[0] += SILENT_S - 1  # on its way to the result table
    assert begun() == [4]
    passed[0] += 1
    assert begun() == []


def test_machines_hear_how_long_ago_the_oldest_save_is(make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.progress.REPORT_EVERY_S", 0.0)
    progress = Progress()
    display = Display([], Estimate(), progress.snapshot, Console(width=100))
    assert display.facts()["checkpoint_age_s"] == 0.0
    reporter = Reporter(Direct(progress))
    with monkeypatch.context() as patch, reporter.running(planned(make_row())) as on_progress:
        patch.setattr(time, "time", lambda clock=time.time: clock() + 100.0)
        assert 100.0 <= display.facts()["checkpoint_age_s"] < 110.0
        reporter.saved()
        on_progress(1)
        assert display.facts()["checkpoint_age_s"] < 10.0
        patch.setattr(time, "time", lambda: 0.0)  # a clock that is behind that of the generator
        assert display.facts()["checkpoint_age_s"] == 0.0


def test_without_an_answer_rows_begin_and_the_display_shows_what_it_heard_last(make_row: MakeRow) -> None:
    progress, row = Progress(), planned(make_row())
    listeners: list[Any] = [Direct(progress)]
    display = Display([row], Estimate(), lambda: snapshot(listeners[-1]), Console(width=100))
    with Reporter(listeners[0]).running(row):
        assert [shown["id"] for shown in display.facts()["running"]] == [row["id"]]
        listeners.append(Silent())
        assert [shown["id"] for shown in display.facts()["running"]] == [row["id"]]
    assert Reporter(Silent()).may_begin(row)
