from collections.abc import Callable
from typing import Any

from rich.console import Console

from pipelines.display import Display
from pipelines.progress import Progress, Reporter, Running

MakeRow = Callable[..., dict[str, Any]]


class Direct:
    """What an actor's handle looks like, calling at once."""

    def __init__(self, progress: Progress) -> None:
        self.calls = 0
        self.progress = progress

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> None:
            self.calls += 1
            getattr(self.progress, name)(*arguments)

        return type("Method", (), {"remote": staticmethod(remote)})


def planned(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "num_windows": 4, "num_frames": 300, "width": 128, "height": 128, "num_steps": 10}


def test_windows_count_in_parts_and_messages_are_few(make_row: MakeRow) -> None:
    progress = Progress()
    listener = Direct(progress)
    with Reporter(listener).running(planned(make_row())) as on_progress:
        for _ in range(25):
            on_progress(1)
        assert [row.num_windows for row in progress.snapshot()[1]] == [4]
    assert progress.snapshot() == (2.5, [])
    assert listener.calls == 3


def test_without_a_listener_nothing_happens(make_row: MakeRow) -> None:
    with Reporter().running(planned(make_row())) as on_progress:
        on_progress(1)


def test_the_display_says_what_is_done_what_runs_and_how_long_it_takes(make_row: MakeRow) -> None:
    progress = Progress()
    rows = [planned(make_row(row_number=number)) for number in (1, 2, 3, 4)]
    display = Display(rows, progress.snapshot, Console(width=100))
    display.began -= 100
    display.finished({**rows[0], "status": "ok"})
    display.finished({**rows[1], "status": "failed"})
    with Reporter(Direct(progress)).running(rows[2]) as on_progress:
        on_progress(20)  # too soon after the start to be told
        progress.report(Running(id="anna", place=(rows[2]["manifest"], 3), windows_done=2.0, num_windows=4))
        assert display.line() == "2/4 rows done, 1 failed, 1 running | 0.02 windows/s | 0:01:00 left"
        console = Console(width=100, record=True)
        console.print(display.render())
        assert "anna  2.0 of 4 windows" in console.export_text()
