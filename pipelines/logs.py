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

OURS = ("pipelines", "stableavatar", "manifests")  # loggers

# What this thread works on. Threads that help it have it from `pipelines.threads`.
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


def keep_credentials_out() -> None:
    """From now on no record of ours holds credentials, nor its trace: others than our handlers may write it too.

    In a notebook or a task of Airflow they are not ours, and in workers of a Ray that was connected to before.
    """
    make = logging.getLogRecordFactory()

    def make_without(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        return _without_credentials(record) if record.name.partition(".")[0] in OURS else record

    logging.setLogRecordFactory(make_without)


def _without_credentials(record: logging.LogRecord) -> logging.LogRecord:
    try:
        record.msg, record.args = redacted(record.getMessage()), ()
    except Exception:  # its words do not fit together, which its handler will say
        return record
    if record.exc_info:  # the error itself would still hold them
        record.exc_text = redacted(logging.Formatter().formatException(record.exc_info))
        record.exc_info = None
    return record


class JsonFormatter(logging.Formatter):
    """Each record as one line: time (UTC), level, logger, message, worker, and what else is known of

    row, manifest, row_number, stage, seconds and exception (with its trace).
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. Of a record that has `line`, what a worker made of its own record, that."""
        line = vars(record).get("line") or self._line(record)
        return json.dumps(redacted_values(line), ensure_ascii=False, default=str)

    def _line(self, record: logging.LogRecord) -> dict[str, Any]:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **at_work.get(),
            "worker": worker(),
        }
        line |= {name: vars(record)[name] for name in ("seconds", "worker") if name in vars(record)}
        if trace := record.exc_text or (record.exc_info and self.formatException(record.exc_info)):
            line["exception"] = trace
        return line


def line_of(text: str) -> dict[str, Any] | None:
    """What a line of JsonFormatter says; None if the text is none."""
    try:
        line = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return line if line and "time" in line else None


def start_logging(as_json: bool = False) -> None:
    """Make the log lines of our stages appear on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter("%(message)s"))
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
