"""What Prometheus hears of a run, from the metrics agents of Ray. It sees each name here as `ray_stableavatar_<name>`.

Counters end in `_total` there. No tag tells rows apart: there are thousands.
"""

import time
from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from manifests.redact import redacted
from pipelines.observers import Observer
from pipelines.outcome import RunReport
from pipelines.spans import Span, spans_of
from pipelines.stage import Place, Row, place

PREFIX = "stableavatar_"

# name: (what it says, what tells its values apart besides `output`)
GAUGES = {
    "rows": ("Rows of the manifest, as they are: ok, failed, running, waiting, or unfinished at the end", ("state",)),
    "queue_length": ("Rows before a stage that no worker has been given yet", ("stage",)),
    "generators": ("Generators of the run", ()),
    "generators_busy": ("Generators that work on a row", ()),
    "windows_per_second": ("Windows made per second since the first one began", ()),
    "checkpoint_age_seconds": ("Since the last save of that running row whose save is oldest", ()),
    "seconds_left": ("Until the run is done, as estimated", ()),
}
COUNTERS = {
    "finished_rows": ("Rows that came to an end, once more each time they are tried again", ("status", "error_kind")),
    "windows": ("Windows made by this run, also parts of them", ()),
    "generator_seconds": ("Seconds that generators worked on rows", ()),
    "row_retries": ("Rows that were begun once more in this run", ()),
    "request_retries": ("Requests to stores that were repeated", ("stage",)),
    "bytes_read": ("Bytes of files that were read from stores", ("stage",)),
    "bytes_written": ("Bytes of files that were written to stores", ("stage",)),
}
HISTOGRAMS = {"stage_seconds": ("Seconds that a row took in a stage", ("stage",))}
BOUNDARIES = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 10800.0]  # seconds


class Metrics(Observer):
    """Keeps Ray's metrics of this process as the run is. Heard from between `begin` and `end`."""

    def __init__(self) -> None:
        self._run: Mapping[str, Any] = {}
        self._is_heard = False
        self._heard_at = 0.0
        self._counted: dict[str, float] = {}  # of what counts for itself
        self._queues: set[str] = set()
        self._spans: dict[Place, list[Span]] = {}  # of failed rows, which may come again

    def begin(self, run: Mapping[str, Any]) -> None:
        """Ray is connected to: its metrics can be made."""
        self._run, self._heard_at = run, time.monotonic()
        self._gauges = {name: Gauge(PREFIX + name, *_tagged(*words)) for name, words in GAUGES.items()}
        self._counters = {name: Counter(PREFIX + name, *_tagged(*words)) for name, words in COUNTERS.items()}
        self._histograms = {
            name: Histogram(PREFIX + name, says, BOUNDARIES, (*tags, "output"))
            for name, (says, tags) in HISTOGRAMS.items()
        }
        for metric in (*self._gauges.values(), *self._counters.values(), *self._histograms.values()):
            metric.set_default_tags({"output": redacted(run["output"])})
        self._is_heard = True

    def tick(self, facts: Mapping[str, Any]) -> None:
        """How far the run is: also what does not change, for Ray forgets a gauge that is not set for some seconds."""
        if not self._is_heard:  # `begin` failed, or this comes from another thread after `end`
            return
        num_busy = min(len(facts["running"]), self._run["num_generators"])  # a row whose generator died still runs
        self._count("generator_seconds", num_busy * (time.monotonic() - self._heard_at))
        self._heard_at = time.monotonic()
        self._count_on("windows", facts["windows_done"])
        self._count_on("row_retries", facts["num_retries"])
        self._set_rows(facts["num_ok"], facts["num_failed"], running=len(facts["running"]))
        self._gauges["generators"].set(self._run["num_generators"])
        self._gauges["generators_busy"].set(num_busy)
        self._gauges["windows_per_second"].set(facts["windows_per_s"])
        self._gauges["checkpoint_age_seconds"].set(facts["checkpoint_age_s"])
        self._gauges["seconds_left"].set(facts["seconds_left"])
        self._set_queues(facts["waiting"])

    def finished(self, row: Row) -> None:
        """Count it, and what its stages did that has not been counted with an earlier try."""
        self._count("finished_rows", 1, status=row["status"], error_kind=row["error_kind"])
        before, spans = self._spans.pop(place(row), []), spans_of(row)
        if row["status"] == "failed":
            self._spans[place(row)] = spans
        for span in spans:
            if span not in before:
                self._histograms["stage_seconds"].observe(span.seconds, {"stage": span.stage})
                self._count("bytes_read", span.bytes_read, stage=span.stage)
                self._count("bytes_written", span.bytes_written, stage=span.stage)
                self._count("request_retries", span.num_retries, stage=span.stage)

    def end(self, report: RunReport) -> None:
        """Nothing runs, and nothing waits."""
        self._is_heard = False
        self._set_rows(report.num_ok, report.num_failed, unfinished=len(report.unfinished))
        for name in ("generators", "generators_busy", "windows_per_second", "checkpoint_age_seconds", "seconds_left"):
            self._gauges[name].set(0)
        self._set_queues({})

    def _set_rows(self, num_ok: int, num_failed: int, running: int = 0, unfinished: int = 0) -> None:
        """What earlier runs left counts too: the states of all rows add up to those of the manifest."""
        num_ok, num_failed = num_ok + self._run["num_done"], num_failed + sum(self._run["left"].values())
        rest = self._run["num_rows"] - num_ok - num_failed - running - unfinished
        states = {"ok": num_ok, "failed": num_failed, "running": running, "waiting": rest, "unfinished": unfinished}
        for state, number in states.items():
            self._gauges["rows"].set(max(0, number), {"state": state})

    def _set_queues(self, waiting: Mapping[str, int]) -> None:
        self._queues |= waiting.keys()
        for stage in self._queues:
            self._gauges["queue_length"].set(waiting.get(stage, 0), {"stage": stage})

    def _count_on(self, name: str, amount: float) -> None:
        """Of what counts for itself, and begins anew where the actor that counts it died."""
        self._count(name, amount - self._counted.get(name, 0.0))
        self._counted[name] = amount

    def _count(self, name: str, amount: float, **tags: str) -> None:
        if amount > 0:  # Ray refuses to count nothing
            self._counters[name].inc(amount, tags)


def _tagged(says: str, tags: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    return says, (*tags, "output")
