"""What came of a run: for its observers, and for whoever started it from Python."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from manifests.redact import redacted_values
from pipelines import carry_over, results, storage
from pipelines.stage import Row
from pipelines.terminal import ALL_FINE, SOME_FAILED, UNFINISHED


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What came of a run. Its rows are those of the manifest, as far as they are shown to people."""

    finished: list[Row]  # it brought them to an end
    unfinished: list[Row]  # it did not, because it stopped or was meant for rows that had failed
    left: list[Row]  # they failed for good in earlier runs
    done: list[Row]  # earlier runs made them
    stopped: str  # why it ended early; empty if it did not

    @property
    def num_ok(self) -> int:
        """Rows that this run made."""
        return sum(row["status"] == "ok" for row in self.finished)

    @property
    def num_failed(self) -> int:
        """Rows that failed in this run."""
        return sum(row["status"] == "failed" for row in self.finished)


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What came of one row of the manifest.

    What the result table says besides, such as its times, is in `RenderResult.table()`, under the same `id`.
    """

    id: str
    manifest: str
    row_number: int  # in that manifest, from 1
    status: str  # "ok", "failed" or "unfinished"
    video: str | None  # path or URI; None unless ok
    error_kind: str  # one of stableavatar.errors.KINDS; empty unless failed
    error: str  # names row, file and remedy; empty unless failed
    was_before: bool  # an earlier run made it, or failed at it for good; this one left it alone

    @classmethod
    def of(cls, row: Mapping[str, Any], *, was_before: bool = False, **known: Any) -> Self:
        """From a row of a RunReport and what is `known` besides."""
        found = {name: row.get(name) for name in cls.__dataclass_fields__} | known
        return cls(**found | {"video": found["video"] if found["status"] == "ok" else None, "was_before": was_before})


@dataclass(frozen=True, kw_only=True)
class RenderResult:
    """What came of a run: every row of its manifest, in the manifest's order, also those that were done before."""

    output: str  # absolute
    rows: tuple[RowResult, ...]
    stopped: str = ""  # why it ended before its rows were finished; empty if it did not

    @property
    def num_ok(self) -> int:
        """Rows whose video is there."""
        return len(self._with("ok"))

    @property
    def num_done_before(self) -> int:
        """Those of them that an earlier run made."""
        return sum(row.was_before for row in self._with("ok"))

    @property
    def failed(self) -> tuple[RowResult, ...]:
        """Rows that failed, each with `error_kind` and `error`."""
        return self._with("failed")

    @property
    def unfinished(self) -> tuple[RowResult, ...]:
        """Rows that are left for the next run: this one `stopped`, or was a retry, and they never failed."""
        return self._with("unfinished")

    @property
    def exit_code(self) -> int:
        """That of `stableavatar render`: 0 all fine; 2 some rows failed; 3 some are unfinished."""
        return UNFINISHED if self.unfinished else SOME_FAILED if self.failed else ALL_FINE

    @property
    def videos_uri(self) -> str:
        """Folder or URI of the videos."""
        return storage.join(self.output, "videos")

    @property
    def results_uri(self) -> str:
        """The Parquet file of the result table."""
        return storage.join(self.output, results.COMPACTED)

    @property
    def report_uri(self) -> str:
        """The page about the output, for people."""
        return storage.join(self.output, results.REPORT)

    @property
    def carry_over_uri(self) -> str:
        """The manifest of what is left, which is there if something is."""
        return carry_over.list_uri(self.output)

    def table(self) -> pa.Table:
        """The whole result table as it is now, with the rows of all runs on this output. Raises StorageError."""
        return results.read_results(self.output)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON or an XCom, without credentials."""
        names = ("num_ok", "num_done_before", "exit_code", "videos_uri", "results_uri", "report_uri", "carry_over_uri")
        return redacted_values(asdict(self) | {name: getattr(self, name) for name in names})

    def _with(self, status: str) -> tuple[RowResult, ...]:
        return tuple(row for row in self.rows if row.status == status)


def outcome(output: str, report: RunReport) -> RenderResult:
    """What a run says of itself, row by row."""
    rows: Iterable[RowResult] = (
        *(RowResult.of(row) for row in report.finished),
        *(RowResult.of(row, status="unfinished", error_kind="", error="") for row in report.unfinished),
        *(RowResult.of(row, was_before=True) for row in report.left),
        *(RowResult.of(row, was_before=True, status="ok") for row in report.done),
    )
    rows = sorted(rows, key=lambda row: (row.manifest, row.row_number))
    return RenderResult(output=storage.absolute(output), rows=tuple(rows), stopped=report.stopped)
