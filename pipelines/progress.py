"""What the generators are doing right now, gathered in one place from all over the cluster, and the word to stop."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from pipelines.stage import Place, Row, place

ANSWER_S = 30.0  # nobody waits longer for an answer
# A row of which nothing is heard for so long is taken for gone, with its node. Steps are shorter; what is cut off all
# the same goes on from its checkpoint. Less than the five minutes after which a run that is to stop is killed.
SILENT_S = 240.0
REPORT_EVERY_S = 1.0  # however fast the windows go, a generator sends no more messages than this


@dataclass(frozen=True, kw_only=True)
class Running:
    """A row that a generator is working on. A window counts in parts: one of its steps is 1 / num_steps of it.

    `windows_resumed`: of those done, by earlier attempts. `saved_at`: when it was last saved, or begun, in seconds
    since 1970, UTC.
    """

    id: str
    place: Place
    windows_done: float
    num_windows: int
    saved_at: float
    windows_resumed: float = 0.0

    @property
    def windows_made(self) -> float:
        """By this attempt."""
        return max(0.0, self.windows_done - self.windows_resumed)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What all generators of this run have done so far, and what runs.

    `begun`: all that began in this round and was heard of lately.
    `num_retries`: how often a row was begun that had been begun before in this run. `resumed`: how much of a row, of 1,
    had been done when this run began with it, where that is not nothing.
    """

    windows_done: float = 0.0
    running: tuple[Running, ...] = ()
    begun: frozenset[Place] = frozenset()
    num_retries: int = 0
    resumed: Mapping[Place, float] = field(default_factory=dict)


class Progress:
    """Counts for all generators. Made a Ray actor by the flow; its methods return at once."""

    def __init__(self) -> None:
        self._running: dict[Place, Running] = {}
        self._begun: dict[Place, float] = {}  # when each was last heard of, by the clock of this process
        self._begun_ever: set[Place] = set()
        self._begun_again: set[Place] = set()
        self._resumed: dict[Place, float] = {}
        self._num_retries = 0
        self._windows_done = 0.0  # by attempts that are over
        self._is_stopping = False

    def begin_round(self) -> None:
        """From now on only what begins anew counts as begun."""
        self._begun.clear()

    def begin(self, place: Place) -> bool:
        """May work on this row begin? Not once the run is to stop."""
        self.end(place)  # if its generator died, nobody has said so
        if not self._is_stopping:
            if place in self._begun_ever:
                self._num_retries += 1
                self._begun_again.add(place)
            self._begun[place] = time.monotonic()
            self._begun_ever.add(place)
        return not self._is_stopping

    def report(self, running: Running) -> bool:
        """A row runs, and is this far. Says whether it is to stop."""
        self._running[running.place] = running
        if running.windows_resumed and running.place not in self._begun_again:  # then this run itself did it
            self._resumed[running.place] = running.windows_resumed / running.num_windows
        self._begun[running.place] = time.monotonic()  # new here, if the Progress before this one has died
        return self._is_stopping

    def end(self, place: Place) -> None:
        """A row runs no more."""
        if running := self._running.pop(place, None):
            if place in self._begun:  # else it is of the round before
                self._begun[place] = time.monotonic()
            self._windows_done += running.windows_made

    def stop(self) -> None:
        """No row begins from now on, and those that run save where they are."""
        self._is_stopping = True

    def snapshot(self) -> Snapshot:
        """Everything at this moment."""
        running = tuple(self._running.values())
        windows_done = self._windows_done + sum(row.windows_made for row in running)
        now = time.monotonic()
        return Snapshot(
            windows_done=windows_done,
            running=running,
            begun=frozenset(place for place, heard_at in self._begun.items() if now - heard_at < SILENT_S),
            num_retries=self._num_retries,
            resumed=dict(self._resumed),
        )


def snapshot(progress: Any) -> Snapshot:
    """What the Progress actor knows. Raises RayError if it does not answer."""
    return _got(progress.snapshot.remote())


class Reporter:
    """A generator's side: tells `listener` (a handle of the Progress actor) what runs. Without one it says nothing."""

    def __init__(self, listener: Any = None) -> None:
        self.listener = listener
        self.is_stopping = False  # as far as this side has heard
        self._answer: Any = None  # the one that is on its way
        self._saved_at = 0.0  # of the row that runs
        self._resumed = 0  # window-steps of it

    def may_begin(self, row: Row) -> bool:
        """Is this row still to be made, or is the run to stop?

        It may if nobody answers, as where the node of the Progress actor has gone: the answer to its first report that
        is heard stops it too.
        """
        try:
            return not self.listener or bool(_got(self.listener.begin.remote(place(row))))
        except RayError:
            return True

    @contextmanager
    def running(self, row: Row) -> Iterator[Callable[[int], None]]:
        """While inside, `row` runs. Gives the function to call with the number of window-steps newly done."""
        steps, told_at = 0, 0.0
        self._saved_at, self._resumed = time.time(), 0

        def on_progress(num_steps: int) -> None:
            nonlocal steps, told_at
            steps += num_steps
            if time.monotonic() - told_at >= REPORT_EVERY_S:
                told_at = time.monotonic()
                self._tell(row, steps)

        on_progress(0)
        try:
            yield on_progress
        finally:
            self._tell(row, steps)
            if self.listener:
                self.listener.end.remote(place(row))

    def resumed(self, num_steps: int) -> None:
        """The row that runs goes on from where an earlier attempt left it, with so many window-steps done."""
        self._resumed = num_steps

    def saved(self) -> None:
        """The row that runs was saved just now."""
        self._saved_at = time.time()

    def _tell(self, row: Row, steps: int) -> None:
        if not self.listener:
            return
        # The answer to the last report is looked at with the next one: a generator never waits for it.
        if _is_there(self._answer):
            with suppress(RayError):  # of one that has died: the next answers
                self.is_stopping = bool(_got(self._answer))
            self._answer = None
        running = Running(
            id=row["id"],
            place=place(row),
            windows_done=steps / row["num_steps"],
            num_windows=row["num_windows"],
            saved_at=self._saved_at,
            windows_resumed=self._resumed / row["num_steps"],
        )
        answer = self.listener.report.remote(running)
        self._answer = self._answer or answer


def _is_there(answer: Any) -> bool:
    return bool(answer is not None and (not isinstance(answer, ray.ObjectRef) or ray.wait([answer], timeout=0)[0]))


def _got(answer: Any) -> Any:
    return ray.get(answer, timeout=ANSWER_S) if isinstance(answer, ray.ObjectRef) else answer
