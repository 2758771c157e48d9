"""Who hears what happens in a run, in its driver: metrics, traces, webhooks, the report. None of them can stop it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.outcome import RunReport
from pipelines.stage import Row

logger = logging.getLogger(__name__)


class Observer:
    """Hears of one run. Subclasses write the methods that they care for, each of which returns at once."""

    def begin(self, run: Mapping[str, Any]) -> None:
        """The generators start now. `run`: `output`, and what `run.json` says (see pipelines.status)."""

    def tick(self, facts: Mapping[str, Any]) -> None:
        """How far the run is, about twice a second and in a thread of its own: `pipelines.display.Display.facts`, and

        `waiting`: how many rows wait before each stage.
        """

    def finished(self, row: Row) -> None:
        """A row is in the result table, or once more after another try. Its columns: `pipelines.results.SHOWN`."""

    def end(self, report: RunReport) -> None:
        """The run is over, and its result table whole."""

    def close(self) -> None:
        """Called last, also after an error. May take a while: nothing waits for it but the end of the process."""


class Observers(Observer):
    """Several as one. What any of them raises is logged, and the run goes on."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = tuple(observers)

    def begin(self, run: Mapping[str, Any]) -> None:
        """Tell all of them."""
        self._each(lambda observer: observer.begin(run))

    def tick(self, facts: Mapping[str, Any]) -> None:
        """Tell all of them."""
        self._each(lambda observer: observer.tick(facts))

    def finished(self, row: Row) -> None:
        """Tell all of them."""
        self._each(lambda observer: observer.finished(row))

    def end(self, report: RunReport) -> None:
        """Tell all of them."""
        self._each(lambda observer: observer.end(report))

    def close(self) -> None:
        """Tell all of them."""
        self._each(lambda observer: observer.close())

    def _each(self, tell: Callable[[Observer], None]) -> None:
        for observer in self.observers:
            try:
                tell(observer)
            except Exception:  # a dashboard that is down is no reason to lose a night
                logger.exception("%s failed; the run goes on", type(observer).__name__)
