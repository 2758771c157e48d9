"""Log lines of our stages: words for people, or a JSON object in each line for machines. Neither holds credentials."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from manifests.redact import redacted, redacted_values
from pipelines.spans import worker

BEGINNING = '{"time": "'  # of every line of JSON

# What this thread works on. Threads that help it are to be given it.
at_work: ContextVar[Mapping[str, Any]] = ContextVar("at_work", default={})  # noqa: B039  nobody changes a Mapping


@contextmanager
def working_on(row: Mapping[str, Any], stage: str) -> Iterator[None]:
    """Inside, lines of JSON tell the row and the stage."""
    token = at_work.set(
        {"row": row["id"], "manifest": row["manifest"], "row_number": row["row_number"], "stage": stage}
    )
    try:
        yield
    finally:
        at_work.reset(token)


class Formatter(logging.Formatter):
    """Lines, and the traces below them, without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole text of a record."""
        return redacted(super().format(record))


class JsonFormatter(logging.Formatter):
    """Each record as one line: time (UTC), level, logger, message, worker, and what else is known of

    row, manifest, row_number, stage, seconds and exception (with its trace).
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. One that is such a line already, of a worker, stays what it is."""
        if record.getMessage().startswith(BEGINNING):
            return record.getMessage()
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **at_work.get(),
            "worker": worker(),
        }
        line |= {name: vars(record)[name] for name in ("seconds", "worker") if name in vars(record)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(redacted_values(line), ensure_ascii=False, default=str)


def start_logging(as_json: bool = False) -> None:
    """Make the log lines of our stages appear on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else Formatter("%(message)s"))
    package = logging.getLogger(__package__)
    package.setLevel(logging.INFO)
    package.handlers, package.propagate = ([], True) if as_json else ([handler], False)
    if as_json:  # then nobody else may write anything else
        logging.root.handlers = [handler]
        logging.captureWarnings(True)
        sys.excepthook = lambda *error: package.critical("ended by %s", error[0].__name__, exc_info=error)


def start_json_logging() -> None:
    """Make the log lines of our stages appear on stderr, as JSON."""
    start_logging(as_json=True)


def is_json() -> bool:
    """Whether this process logs as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers)


def worker_logging() -> Callable[[], None]:
    """What starts in each worker the logging that this process has."""
    return start_json_logging if is_json() else start_logging
