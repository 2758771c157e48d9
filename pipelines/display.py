"""What a person sees while a run goes on: a live display on a terminal, a log line now and then elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipelines.plan import cost
from pipelines.progress import Running
from pipelines.stage import Row

LIVE_EVERY_S = 0.5
LOG_EVERY_S = 10.0
MAX_SHOWN = 16  # running rows

logger = logging.getLogger(__name__)


class Display:
    """Shows rows done, failed and running, windows per second and the time left. Use as a context manager."""

    def __init__(
        self, rows: Iterable[Row], snapshot: Callable[[], tuple[float, list[Running]]], console: Console
    ) -> None:
        """`snapshot` tells the windows done so far and what runs, as `Progress.snapshot`."""
        self.costs = {(row["manifest"], row["row_number"]): cost(row) for row in rows}
        self.snapshot = snapshot
        self.num_ok = self.num_failed = 0
        self.cost_done = 0.0
        self.began = time.monotonic()
        self.live = Live(
            console=console, get_renderable=self.render, refresh_per_second=1 / LIVE_EVERY_S, transient=True
        )
        self.is_live = console.is_terminal
        self.stopped = threading.Event()
        self.logger_thread = threading.Thread(target=self._log, daemon=True)

    def __enter__(self) -> Self:
        if self.is_live:
            self.live.start()
        else:
            self.logger_thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        if self.is_live:
            self.live.stop()
        else:
            self.logger_thread.join()  # it asks the cluster, which may be gone soon

    def finished(self, row: Row) -> None:
        """One more row is in the result table."""
        self.num_ok += row["status"] == "ok"
        self.num_failed += row["status"] == "failed"
        self.cost_done += self.costs[row["manifest"], row["row_number"]]

    def line(self) -> str:
        """Everything in one line."""
        return self._line(*self.snapshot())

    def render(self) -> Group:
        """Everything, with a line for each running row."""
        windows_done, running = self.snapshot()
        shown = [f"  {row.id}  {row.windows_done:.1f} of {row.num_windows} windows" for row in running[:MAX_SHOWN]]
        return Group(*(Text(line, no_wrap=True) for line in (self._line(windows_done, running), *shown)))

    def _line(self, windows_done: float, running: list[Running]) -> str:
        if not (running or windows_done):
            self.began = time.monotonic()  # loading the model says nothing about the speed
        elapsed_s = max(time.monotonic() - self.began, 1e-3)
        rows = f"{self.num_ok + self.num_failed}/{len(self.costs)} rows done, {self.num_failed} failed"
        if not (running or windows_done or self.cost_done):
            return f"{rows} | loading the models"
        speed = f"{windows_done / elapsed_s:.2f} windows/s"
        return f"{rows}, {len(running)} running | {speed} | {self._time_left(running, elapsed_s)} left"

    def _time_left(self, running: list[Running], elapsed_s: float) -> str:
        parts = (self.costs.get(row.place, 0.0) * row.windows_done / row.num_windows for row in running)
        done, total = self.cost_done + sum(parts), sum(self.costs.values())
        return str(timedelta(seconds=round(elapsed_s * (total - done) / done))) if done else "?"

    def _log(self) -> None:
        while not self.stopped.wait(LOG_EVERY_S):
            logger.info("%s", self.line())
