"""The contract of a stage: a callable on one plain row. A row's error is data and never ends the run."""

import logging
import time
from typing import Any, ClassVar

from manifests.redact import redacted
from pipelines import traffic
from pipelines.logs import working_on
from pipelines.spans import Span, with_span, worker
from stableavatar.errors import DISK_FAILURES, RowError, StorageError

Row = dict[str, Any]
Place = tuple[str, int]  # manifest, and number of the row there

# What rows go through before they are written down, in the order of the flow.
STAGES = ("check", "prepare", "separate", "encode_text", "generate", "measure")

# Columns that only stages need. They never reach the result table and a failed row carries none of them.
WORKING_COLUMNS = ("portrait_HWC", "speech", "sound", "track_files", "prompt_embeds", "negative_prompt_embeds")

logger = logging.getLogger(__name__)


class Stage:
    """One step of the flow. Subclasses set `name` and write `process`; models are loaded once, in the constructor.

    A row that is not `ready` passes untouched. The seconds a row took here go to the column `<name>_s`, and with when
    and where to `spans`: JSON, a list with a Span for each stage. Safe to run twice.
    """

    name: ClassVar[str]
    fatal: ClassVar[tuple[type[Exception], ...]] = ()  # errors of the process, not of the row: these are raised

    def process(self, row: Row) -> Row:
        """The row with this stage's columns added. Raises RowError when this row cannot go on."""
        raise NotImplementedError

    def __call__(self, row: Row) -> Row:
        """The row after this stage, or failed in it."""
        if row["status"] != "ready":
            return row
        with working_on(row, self.name):
            return self._work(row)

    def _work(self, row: Row) -> Row:
        started_at, started, before = time.time(), time.perf_counter(), traffic.so_far()
        try:
            row = self.process(row)
        except RowError as error:
            row = fail(row, self.name, error.kind, str(error))
        except self.fatal:
            raise
        except Exception as error:  # whatever one strange row brings, the night goes on; the traceback is in the log
            logger.exception("%s %s: unexpected error", row["id"], self.name)
            row = fail(row, self.name, *explain(error))
        seconds = time.perf_counter() - started
        outcome = row["error"] if row["status"] == "failed" else "done"
        logger.info("%s %s %.2f s %s", row["id"], self.name, seconds, outcome, extra={"seconds": seconds})
        moved = vars(traffic.so_far() - before)
        span = Span(stage=self.name, worker=worker(), started_at=started_at, seconds=seconds, **moved)
        return {**row, f"{self.name}_s": seconds, "spans": with_span(row, span)}


def explain(error: Exception) -> tuple[str, str]:
    """(kind, message) of an error that is none of ours."""
    if isinstance(error, OSError) and error.errno in DISK_FAILURES:
        return StorageError.kind, f"a disk failed ({error}). Make room on the scratch disk, and run again."
    return RowError.kind, f"unexpected {type(error).__name__}: {error}. The log has its trace."


def fail(row: Row, stage: str, kind: str, message: str) -> Row:
    """The row, failed in `stage`. The message says first which row of which manifest it is about; no credentials."""
    error = f"{_whose(row)}{redacted(message)}"
    kept = {name: value for name, value in row.items() if name not in WORKING_COLUMNS}
    return {
        "started_at": time.time(),
        **kept,
        "status": "failed",
        "error_kind": kind,
        "error": error,
        "stage": stage,
        "video": None,
    }


def reason_of(row: Row) -> str:
    """The message alone of a row that `fail` made, as the result table has it too."""
    return row["error"].removeprefix(_whose(row))


def _whose(row: Row) -> str:
    return f"row {row['row_number']} of {redacted(row['manifest'])}: "


def put_off(row: Row) -> Row:
    """The row, left for a later run: this one is to stop."""
    kept = {name: value for name, value in row.items() if name not in WORKING_COLUMNS}
    return {**kept, "status": "unfinished"}


def place(row: Row) -> Place:
    """Where a row stands: its manifest, and its number there."""
    return row["manifest"], row["row_number"]


def known_place(row: Row) -> Place:
    """The same as the result table has it, without credentials."""
    return redacted(row["manifest"]), row["row_number"]
