"""Why a run ends early, and how: nothing new begins, what runs saves where it is, the next run goes on from there."""

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any, Self

from ray.exceptions import RayError

from pipelines.stage import Place, Row, place

TICK_S = 0.5
LEAVE_S = 10.0  # how long what goes on in another thread may take to end

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """When a run ends, finished or not. `max_gpu_hours`: of all generators together, from the moment they start."""

    stop_by: datetime | None = None  # with a time zone
    max_gpu_hours: float | None = None


class Watch:
    """Looks after a run while it goes on. A context manager; SIGTERM is one of the reasons to stop while inside.

    To be entered after Ray is connected to, which takes the signal for itself, and left before Ray is. However it is
    left, no flow goes on behind it: the output may be another run's then.

    `reason` says why the run is to end; empty while it is not.
    """

    def __init__(
        self, bounds: Bounds, other: Callable[[], str] = lambda: "", stop_flows: Callable[[], None] = lambda: None
    ) -> None:
        """`other`: gives one more reason to stop, or nothing. `stop_flows`: ends what `until_drained` waits for."""
        self.bounds = bounds
        self.other = other
        self.stop_flows = stop_flows
        self._on_tick: Callable[[], None] = lambda: None
        self.reason = ""
        self._signal = ""
        self._progress: Any = None
        self._num_devices = 0.0
        self._started = 0.0
        self._coming: _Coming | None = None
        self._ended = threading.Event()
        # Two: who hears of the run may take its time, also to ask how far it is; a signal may not.
        self._threads = [threading.Thread(target=self._run, args=[do], daemon=True) for do in (self._look, self._tick)]

    def __enter__(self) -> Self:
        # Only the main thread may say what a signal does. Ray's own handler would end the process at once.
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        self._look()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._end_flow()
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(LEAVE_S)
            if self._is_main:
                signal.signal(signal.SIGTERM, self._before)

    def begin(self, progress: Any, num_devices: float, on_tick: Callable[[], None]) -> None:
        """The generators start now.

        `progress`: the handle of the Progress actor, which passes the word on. `num_devices`: GPUs whose hours count.
        `on_tick` is called about twice a second from now on, in a thread of its own; what it raises is only logged.
        """
        self._started, self._num_devices, self._progress = time.monotonic(), num_devices, progress
        self._on_tick = on_tick

    def until_drained(self, rows: Iterable[Row], begun: Callable[[], Iterable[Place]] = frozenset) -> Iterator[Row]:
        """The rows as they come; once the run is to stop, only until those have come that `begun()` tells.

        As long as that raises TimeoutError or RayError, the next rows are waited for.
        """
        returned: set[Place] = set()
        coming = self._coming = _Coming(rows)
        while not (self.reason and _have_come(begun, returned)):
            try:
                row = coming.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if row is None:
                return
            yield row
            returned.add(place(row))
        self._end_flow()

    def _end_flow(self) -> None:
        """Nothing to do if all its rows have come."""
        if self._coming and not self._coming.is_over:
            self.stop_flows()
            self._coming.join()

    def pause(self, seconds: float) -> None:
        """Wait, or until the run is to stop."""
        until = time.monotonic() + seconds
        while not self.reason and time.monotonic() < until:
            time.sleep(min(TICK_S, seconds))

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = f"{signal.Signals(number).name} was received"

    def _run(self, do: Callable[[], None]) -> None:
        while not self._ended.wait(TICK_S):
            try:
                do()
            except Exception:  # whatever fails here, the run goes on
                logger.exception("looking after the run failed")

    def _tick(self) -> None:
        self._on_tick()

    def _look(self) -> None:
        if not self.reason and (reason := self._why()):
            self.reason = reason
            logger.warning("stopping: %s. What runs is saved; the same command goes on from there.", reason)
        if self.reason and self._progress:
            self._progress.stop.remote()  # again each time: it may have been started anew

    def _why(self) -> str:
        hours = self._num_devices * (time.monotonic() - self._started) / 3600
        if self.bounds.stop_by and datetime.now(self.bounds.stop_by.tzinfo) >= self.bounds.stop_by:
            return f"it is {self.bounds.stop_by:%Y-%m-%d %H:%M}"
        if self.bounds.max_gpu_hours is not None and hours >= self.bounds.max_gpu_hours:
            return f"{self.bounds.max_gpu_hours:g} GPU hours are used up"
        return self._signal or self.other()


def _have_come(begun: Callable[[], Iterable[Place]], returned: set[Place]) -> bool:
    try:
        return returned.issuperset(begun())
    except (TimeoutError, RayError):  # whoever knows it was just started anew
        return False


class _Coming:
    """Rows that are waited for in another thread: nobody can look up from waiting for Ray."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.is_over = False  # as far as who waits has been told
        self._rows = rows
        self._queue: queue.Queue[Row | BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the rows have ended, for a while: then Ray can be left without anybody stumbling."""
        self._thread.join(LEAVE_S)

    def get(self, timeout: float) -> Row | None:
        """The next row, None after the last. Raises queue.Empty after `timeout` seconds, and what the rows raised."""
        row = self._queue.get(timeout=timeout)
        self.is_over = row is None or isinstance(row, BaseException)
        if isinstance(row, BaseException):
            raise row
        return row

    def _wait(self) -> None:
        try:
            for row in self._rows:
                self._queue.put(row)
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)
