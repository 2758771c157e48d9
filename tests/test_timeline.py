from typing import Any

import pytest

from pipelines.timeline import MAX_BARS, MAX_LANES, MAX_TICKS, WIDTH, busy_share, clock, timeline, timings
from tests.spans import with_spans

HOUR_S = 3600.0


def row(id: str, *spans: tuple[str, str, float, float]) -> dict[str, Any]:
    """A row that went through (stage, worker, when, seconds)."""
    return with_spans({"id": id}, *spans)


def test_the_times_of_the_stages_in_their_order() -> None:
    rows = [row(f"{n}", ("generate", "a", 0.0, float(n)), ("check", "b", 0.0, 1.0)) for n in range(1, 22)]
    check, generate = timings(rows)
    assert (check.stage, check.num_rows, check.mean_s, check.p95_s, check.sum_s) == ("check", 21, 1.0, 1.0, 21.0)
    assert (generate.mean_s, generate.median_s, generate.p95_s, generate.sum_s) == (11, 11, 20, 231)
    assert generate.share == 1.0
    assert check.share == pytest.approx(21 / 231)


def test_where_no_row_tells_there_are_no_times() -> None:
    assert timings([{"id": "lost", "spans": None}]) == timings([]) == []


def test_how_busy_generators_are() -> None:
    first = [row("a", ("generate", "x", 0.0, 10.0)), row("b", ("generate", "x", 10.0, 10.0))]
    second = [row("c", ("generate", "y", 0.0, 10.0), ("measure", "z", 10.0, 99.0))]
    assert busy_share(first, 1) == 1.0
    assert busy_share(first, 2) == 0.5
    assert busy_share(first + second, 2) == 0.75
    assert busy_share(first + second, 1) == 0.75  # more came than there were at first
    assert busy_share([{"id": "old", "spans": None}], 1) is None


def test_each_worker_has_a_lane_and_each_row_a_bar() -> None:
    shown = timeline(
        [
            row("ben", ("check", "node/1", 100.0, 10.0), ("generate", "node/3", 150.0, 50.0)),
            row("anna", ("check", "node/1", 110.0, 10.0), ("generate", "node/2", 120.0, 80.0)),
        ]
    )
    assert shown is not None
    assert (shown.began_at, shown.ended_at) == (100.0, 200.0)
    check, generate = shown.groups
    assert [lane.worker for lane in generate.lanes] == ["node/2", "node/3"]
    assert (check.num_workers, check.seconds) == (1, 20.0)
    (bars,) = (lane.bars for lane in check.lanes)
    assert [(bar.x, bar.width, bar.ids, bar.busy) for bar in bars] == [(0, 100, ("ben",), 1), (100, 100, ("anna",), 1)]
    assert generate.lanes[0].bars[0].x + generate.lanes[0].bars[0].width == WIDTH


def test_where_no_row_tells_there_is_no_timeline() -> None:
    assert timeline([{"id": "old", "spans": None}]) is None


def test_thousands_of_rows_become_a_bounded_number_of_bars() -> None:
    rows = [row(f"{n}", ("generate", f"node/{n % 3}", float(n), 1.5)) for n in range(3 * MAX_BARS)]
    shown = timeline(rows)
    assert shown is not None
    bars = [bar for lane in shown.groups[0].lanes for bar in lane.bars]
    assert MAX_BARS / 2 < len(bars) <= MAX_BARS
    assert sum(len(bar.ids) for bar in bars) == len(rows)
    assert 0.5 <= min(bar.busy for bar in bars) <= 1.0
    assert all(bar.x + bar.width <= WIDTH + 1e-6 for bar in bars)


def test_of_many_workers_the_first_are_shown() -> None:
    shown = timeline([row(f"{n}", ("check", f"node/{n}", float(n), 1.0)) for n in range(500)])
    assert shown is not None
    assert (len(shown.groups[0].lanes), shown.groups[0].num_workers) == (MAX_LANES, 500)


@pytest.mark.parametrize("seconds", [0.01, 7.0, 400.0, 3 * HOUR_S, 30 * HOUR_S, 2000 * HOUR_S])
def test_the_axis_has_a_few_round_times(seconds: float) -> None:
    shown = timeline([row("a", ("generate", "node/1", 1_000_000_007.5, seconds))])
    assert shown is not None
    assert len(shown.ticks) <= MAX_TICKS + 1
    assert len(shown.ticks) >= 2 or seconds < 10
    assert all(0 <= x <= WIDTH and time % shown.step_s == 0 for x, time in shown.ticks)


def test_times_are_of_the_day_in_utc_and_as_exact_as_their_steps() -> None:
    assert [clock(45_296.0, step_s) for step_s in (5, 600, 86_400)] == ["12:34:56", "12:34", "01 Jan"]
