"""What a person sees while a run goes on: a live display on a terminal, a log line now and then elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from ray.exceptions import RayError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipelines.estimate import Estimate
from pipelines.logs import is_json
from pipelines.observers import Observer
from pipelines.progress import Snapshot
from pipelines.stage import Place, Row, place
from pipelines.terminal import MAX_RUNNING

LIVE_EVERY_S = 0.5
LOG_EVERY_S = 10.0

logger = logging.getLogger(__name__)


class Display(Observer):
    """Shows rows done, failed and running, windows per second and the time left. Use as a context manager."""

    def __init__(
        self, rows: Iterable[Row], estimate: Estimate, snapshot: Callable[[], Snapshot], console: Console
    ) -> None:
        """`snapshot` tells the windows done so far and what runs, as `Progress.snapshot`."""
        self.rows = {place(row): row for row in rows}
        self.estimate = estimate
        self.ask = snapshot
        self.heard = Snapshot()  # last
        self.done: dict[Place, Row] = {}
        self.began = time.monotonic()
        self.live = Live(
            console=console, get_renderable=self.render, refresh_per_second=1 / LIVE_EVERY_S, transient=True
        )
        self.is_live = console.is_terminal and not is_json()
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
        """One more row is in the result table, or once more, after another try."""
        self.done[place(row)] = row
        self.estimate.learn({**self.rows[place(row)], **row})

    def facts(self) -> dict[str, Any]:
        """Everything, for machines."""
        with suppress(RayError):  # its actor is being started on another node
            self.heard = self.ask()
        snapshot = self.heard
        if not (snapshot.running or snapshot.windows_done):
            self.began = time.monotonic()  # loading the model says nothing about the speed
        elapsed_s = max(time.monotonic() - self.began, 1e-3)
        done = list(self.done.copy().values())
        return {
            "num_rows": len(self.rows),
            "num_ok": sum(row["status"] == "ok" for row in done),
            "num_failed": sum(row["status"] == "failed" for row in done),
            "windows_done": snapshot.windows_done,
            "windows_per_s": snapshot.windows_done / elapsed_s,
            "seconds_left": self._seconds_left(snapshot, elapsed_s),
            "running": [
                {"id": row.id, "windows_done": row.windows_done, "num_windows": row.num_windows}
                for row in snapshot.running
            ],
            "num_retries": snapshot.num_retries,
            "checkpoint_age_s": max([0.0, *(time.time() - row.saved_at for row in snapshot.running)]),
        }

    def line(self) -> str:
        """Everything in one line."""
        return _line(self.facts())

    def render(self) -> Group:
        """Everything, with a line for each running row."""
        facts = self.facts()
        shown = (
            f"  {row['id']}  {row['windows_done']:.1f} of {row['num_windows']} windows"
            for row in facts["running"][:MAX_RUNNING]
        )
        return Group(*(Text(line, no_wrap=True) for line in (_line(facts), *shown)))

    def _seconds_left(self, snapshot: Snapshot, elapsed_s: float) -> float | None:
        """From the speed so far. What one row takes in comparison with another is the estimate's business."""
        seconds = {place: self.estimate.seconds(row) for place, row in self.rows.items()}
        shares = {row.place: row.windows_done / row.num_windows for row in snapshot.running if row.place in seconds}
        shares |= dict.fromkeys(self.done.copy(), 1.0)
        done = sum(seconds[place] * share for place, share in shares.items())
        before = sum(seconds[place] * min(share, snapshot.resumed.get(place, 0.0)) for place, share in shares.items())
        return elapsed_s * (sum(seconds.values()) - done) / (done - before) if done > before else None

    def _log(self) -> None:
        while not self.stopped.wait(LOG_EVERY_S):
            logger.info("%s", self.line())


def _line(facts: dict[str, Any]) -> str:
    num_done = facts["num_ok"] + facts["num_failed"]
    rows = f"{num_done}/{facts['num_rows']} rows done, {facts['num_failed']} failed"
    if not (facts["running"] or facts["windows_done"] or facts["seconds_left"] is not None):
        return f"{rows} | loading the models"
    left = "?" if facts["seconds_left"] is None else str(timedelta(seconds=round(facts["seconds_left"])))
    return f"{rows}, {len(facts['running'])} running | {facts['windows_per_s']:.2f} windows/s | {left} left"
