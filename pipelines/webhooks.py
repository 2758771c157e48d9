"""Webhooks: others hear of each row that is finished, and of the end of the run.

What nobody took is in `<output>/webhooks-undelivered.jsonl`, which the next run sends first. Each line is for one
receiver and holds an `event`; or `rows_since`, a moment: of the rows in the result table that finished since then,
some may not have been announced. Such a line is there while a run goes on, and stays where it was killed.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from manifests.identity import content_id
from manifests.redact import redacted
from pipelines import results, storage
from pipelines.lines import read_lines, write_lines
from pipelines.observers import Observer
from pipelines.outcome import RunReport
from pipelines.receiver import NEW_SECRET, Event, Receiver, signers
from pipelines.retries import patience
from pipelines.stage import Row
from stableavatar.errors import BadInput

SECRET = "STABLEAVATAR_WEBHOOK_SECRET"
UNDELIVERED = "webhooks-undelivered.jsonl"
CLOSING_S = 30.0  # that the end of a run waits for receivers
PATIENCE_S = 10.0  # with the store
# Of a row, in this order.
ROW = (
    *("id", "content_id", "manifest", "row_number", "status", "error_kind", "error", "stage", "video", "attempts"),
    *("gpu_s", "num_frames", "started_at", "finished_at"),
)

logger = logging.getLogger(__name__)


class Webhooks(Observer):
    """Tells addresses of a run, each on its own: what one of them does is nothing to the others, nor to the run."""

    def __init__(self, urls: Sequence[str], secrets: str | None = None) -> None:
        """`secrets`: see `receiver.signers`; None: as the environment has it. Raises BadInput."""
        signing = signers(os.environ.get(SECRET, "") if secrets is None else secrets)
        if not signing:
            raise BadInput(f"webhooks are signed, and there is no secret. Set {SECRET}; {NEW_SECRET}")
        self.receivers = _by_key(Receiver(url, signing) for url in urls)
        self.run: Mapping[str, Any] = {}
        self.began: list[dict[str, Any]] = []
        self.settled: set[tuple[str, str]] = set()  # lines that have done their duty

    def begin(self, run: Mapping[str, Any]) -> None:
        """Send first what earlier runs could not."""
        self.run = run
        for receiver in self.receivers.values():
            receiver.start()
        self.began = [{"receiver": key, "rows_since": run["started_at"]} for key in self.receivers]
        with patience(PATIENCE_S):
            old = read_lines(self._uri())
            write_lines([*old, *self.began], self._uri())  # whatever fails from here on, it can be made up for
            mine = [line for line in old if line["receiver"] in self.receivers]
            for line in mine:
                if "event" in line:
                    self.receivers[line["receiver"]].offer(line["event"], always=is_of_run(line["event"]))
            self._announce_since([line for line in mine if "rows_since" in line])
            self.settled |= set(map(_mark, mine))

    def _announce_since(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Offer the rows that finished since then once more: they have the ids that they had."""
        if not lines:
            return
        rows = results.read_results(self.run["output"]).select(ROW).to_pylist()
        for row in sorted(rows, key=lambda row: row["finished_at"] or results.LONG_AGO):
            event = row_finished(self.run["output"], row)
            for line in lines:
                if (row["finished_at"] or results.LONG_AGO) >= datetime.fromisoformat(line["rows_since"]):
                    self.receivers[line["receiver"]].offer(event)

    def finished(self, row: Row) -> None:
        """Announce the row."""
        event = row_finished(self.run["output"], row)
        for receiver in self.receivers.values():
            receiver.offer(event)

    def end(self, report: RunReport) -> None:
        """Announce the end. All rows of this run have been offered."""
        event = run_finished(self.run, report)
        for receiver in self.receivers.values():
            receiver.offer(event, always=True)
        self.settled |= set(map(_mark, self.began))

    def close(self) -> None:
        """Send what still waits, for a bounded time, and write down the rest."""
        if not self.run:
            return
        deadline = time.monotonic() + CLOSING_S
        for receiver in self.receivers.values():
            receiver.end()
        left = [line for receiver in self.receivers.values() for line in _left(receiver, deadline)]
        # Read again: another run may have begun here, or the first reading may have failed.
        noted = {_mark(line): line for line in [*read_lines(self._uri()), *self.began]}
        lines = {mark: line for mark, line in noted.items() if mark not in self.settled}
        lines |= {_mark(line): line for line in left}
        if lines:
            write_lines(lines.values(), self._uri())
        else:
            storage.remove(self._uri())
        if left:
            logger.warning("webhooks: %d undelivered, see %s. The next run sends them.", len(left), self._uri())

    def _uri(self) -> str:
        return storage.join(self.run["output"], UNDELIVERED)


def _by_key(receivers: Iterable[Receiver]) -> dict[str, Receiver]:
    found: dict[str, Receiver] = {}
    for receiver in receivers:
        if found.setdefault(receiver.key, receiver).url != receiver.url:
            raise BadInput(
                f"two addresses of webhooks, {receiver.name}, differ in their credentials alone, and what waits for "
                "one could not be told from what waits for the other. Give each a name at its end: #first, #second."
            )
    return found


def _left(receiver: Receiver, deadline: float) -> list[dict[str, Any]]:
    """The lines of what a receiver has not taken."""
    lines: list[dict[str, Any]] = [{"receiver": receiver.key, "event": event} for event in receiver.leave(deadline)]
    missed = [{"receiver": receiver.key, "rows_since": receiver.missed_since}] if receiver.missed_since else []
    return lines + missed


def _mark(line: Mapping[str, Any]) -> tuple[str, str]:
    """What a line is known by."""
    return line["receiver"], line["event"]["id"] if "event" in line else line["rows_since"]


def is_of_run(event: Event) -> bool:
    """Is it about a run as a whole? No result table could tell of it again."""
    return event["type"] == "run.finished"


def row_finished(output: str, row: Row) -> Event:
    """A row, done or failed. Its id follows from what came of what: the same again has the same."""
    data = {"output": redacted(output), **{name: _shown(row.get(name), name) for name in ROW}}
    outcome = {name: data[name] for name in ("output", "status", "error_kind", "video")}
    id = content_id({"type": "row.finished", "row": results.stem(data), **outcome})
    return {"id": id, "type": "row.finished", "timestamp": data["finished_at"], "data": data}


def run_finished(run: Mapping[str, Any], report: RunReport) -> Event:
    """A run, all done or stopped."""
    data = {
        "output": redacted(run["output"]),
        **{name: run[name] for name in ("manifest", "model", "num_rows", "started_at")},
        "finished_at": _moment(time.time()),
        "num_ok": report.num_ok,
        "num_failed": report.num_failed,
        "num_left": len(report.left),
        "num_done_before": len(report.done),
        "num_unfinished": len(report.unfinished),
        "stopped": redacted(report.stopped) or None,
    }
    id = content_id({"type": "run.finished", "output": data["output"], "started_at": run["started_at"]})
    return {"id": id, "type": "run.finished", "timestamp": data["finished_at"], "data": data}


def _shown(value: Any, name: str) -> Any:
    """A value of a row, whether it comes from a stage or from the result table."""
    if name in results.TIMES:
        return _moment(value)
    return redacted(value) or None if isinstance(value, str) else value


def _moment(value: float | datetime | None) -> str | None:
    moment = datetime.fromtimestamp(value, UTC) if isinstance(value, float) else value
    return moment.isoformat(timespec="milliseconds") if moment else None
