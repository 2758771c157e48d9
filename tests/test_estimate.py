from typing import Any

from pipelines.estimate import Estimate


def row(id: str = "a", width: int = 100, num_windows: int = 1, **words: Any) -> dict[str, Any]:
    plan = {"width": width, "height": 100, "num_windows": num_windows, "num_steps": 2, "window_latents": 21}
    return {"id": id, "status": "ready", "priority": None, **plan, **words}


def ids(estimate: Estimate, *rows: dict[str, Any]) -> list[str]:
    return [row["id"] for row in estimate.in_order(rows)]


def test_failed_rows_then_priority_then_the_longest() -> None:
    rows = [
        row("short"),
        row("long", num_windows=5),
        row("bad", status="failed"),
        row("wide", width=900),
        row("urgent", priority=2),
        row("late", priority=-1, num_windows=50),
    ]
    assert ids(Estimate(), *rows) == ["bad", "urgent", "wide", "long", "short", "late"]


def test_what_an_earlier_run_left_comes_before_any_priority() -> None:
    rows = [row("urgent", priority=2), row("left", is_carried=True), row("left urgent", is_carried=True, priority=1)]
    assert ids(Estimate(), *rows, row("bad", status="failed")) == ["bad", "left urgent", "left", "urgent"]


def test_measured_speed_corrects_the_order() -> None:
    """Nine times the pixels took a hundred times as long."""
    measured = [
        row(status="ok", sample_s=1.0, generate_s=1.0),
        row(width=900, status="ok", sample_s=1.0, generate_s=100.0),
    ]
    rows = [row("long", num_windows=20), row("wide", width=900)]
    assert ids(Estimate(), *rows) == ["long", "wide"]
    assert ids(Estimate(measured), *rows) == ["wide", "long"]
    assert Estimate(measured).seconds(rows[0]) == 20.0


def test_a_size_not_seen_yet_takes_the_middle_of_the_others() -> None:
    estimate = Estimate([row(status="ok", sample_s=1.0, generate_s=3.0)])
    assert estimate.seconds(row(width=200)) == 6.0


def test_rows_that_were_interrupted_or_failed_say_nothing_about_speed() -> None:
    estimate = Estimate([row(status="ok", sample_s=1.0, generate_s=3.0, attempts=1)])
    estimate.learn(row(status="ok", sample_s=1.0, generate_s=500.0, attempts=2))
    estimate.learn(row(status="failed", sample_s=1.0, generate_s=500.0))
    estimate.learn(row(status="ok", sample_s=1.0, generate_s=None))
    estimate.learn(row(status="ok", sample_s=None, generate_s=0.01))  # copied from a row with the same content
    estimate.learn(row(status="ok", sample_s=1.0, generate_s=9.0, num_windows=0))
    assert estimate.seconds(row()) == 3.0


def test_how_long_the_rows_of_each_priority_are() -> None:
    rows = [row(num_windows=2), row(priority=3), row(num_windows=4), row(status="failed")]
    estimate = Estimate([row(status="ok", sample_s=1.0, generate_s=3.0)])
    assert estimate.by_priority(rows) == {0: [6.0, 12.0], 3: [3.0]}
