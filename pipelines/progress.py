"""What the generators are doing right now, gathered in one place from all over the cluster."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.stage import Row

REPORT_EVERY_S = 1.0  # however fast the windows go, a generator sends no more messages than this


@dataclass(frozen=True, kw_only=True)
class Running:
    """A row that a generator is working on. A window counts in parts: one of its steps is 1 / num_steps of it."""

    id: str
    place: tuple[str, int]  # manifest and row number
    windows_done: float
    num_windows: int


class Progress:
    """Counts for all generators. Made a Ray actor by the flow; its methods return at once."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], Running] = {}
        self._windows_done = 0.0  # of rows that no longer run

    def report(self, running: Running) -> None:
        """A row runs, and is this far."""
        self._running[running.place] = running

    def end(self, place: tuple[str, int]) -> None:
        """A row runs no more."""
        self._windows_done += self._running.pop(place).windows_done

    def snapshot(self) -> tuple[float, list[Running]]:
        """All windows done so far, and the rows that run."""
        running = list(self._running.values())
        return self._windows_done + sum(row.windows_done for row in running), running


class Reporter:
    """A generator's side: tells `listener` (a handle of the Progress actor) what runs. Without one it says nothing."""

    def __init__(self, listener: Any = None) -> None:
        self.listener = listener

    @contextmanager
    def running(self, row: Row) -> Iterator[Callable[[int], None]]:
        """While inside, `row` runs. Gives the function to call with the number of window-steps newly done."""
        place = (row["manifest"], row["row_number"])
        steps, told_at = 0, 0.0

        def on_progress(num_steps: int) -> None:
            nonlocal steps, told_at
            steps += num_steps
            if time.monotonic() - told_at >= REPORT_EVERY_S:
                told_at = time.monotonic()
                self._tell(row, place, steps)

        on_progress(0)
        try:
            yield on_progress
        finally:
            self._tell(row, place, steps)
            if self.listener:
                self.listener.end.remote(place)

    def _tell(self, row: Row, place: tuple[str, int], steps: int) -> None:
        if self.listener:
            done = steps / row["num_steps"]
            running = Running(id=row["id"], place=place, windows_done=done, num_windows=row["num_windows"])
            self.listener.report.remote(running)
