"""What the commands print: the rows of a manifest as checked, what came of a run, and how far an output is."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape
from rich.table import Table

from pipelines import results
from pipelines.stage import Row
from stableavatar.checkpoints.inspect import FolderReport
from stableavatar.units import FPS

STAGES = ("check", "prepare", "encode_text", "generate", "measure")


def listing(rows: Iterable[Row], done: Collection[str] = ()) -> Table:
    """Checked rows that can be rendered; those whose file stem is in `done` are marked."""
    table = Table("id", "size", "seconds", "frames", "windows", "video", box=None, pad_edge=False)
    for row in rows:
        if row["status"] != "failed":
            stem = results.stem(row)
            size, seconds = f"{row['width']}x{row['height']}", f"{row['duration_s']:.2f}"
            video = f"videos/{stem}.mp4" + (" (already done)" if stem in done else "")
            table.add_row(
                escape(row["id"]), size, seconds, str(row["num_frames"]), str(row["num_windows"]), escape(video)
            )
    for column in table.columns[1:5]:
        column.justify = "right"
    for column in (table.columns[0], table.columns[5]):
        column.overflow = "fold"
    return table


def folder(report: FolderReport) -> Table:
    """The files of a published model."""
    table = Table("file", "for", "bytes", "tensors", "sha256", "", box=None, pad_edge=False)
    for file in report.files:
        size = "missing" if file.num_bytes is None else f"{file.num_bytes:,}"
        state = "fine" if file.is_fine else "[red]cannot be used[/]"
        table.add_row(escape(file.path), file.use, size, str(file.num_tensors or ""), file.sha256[:16], state)
    return table


def failures(rows: Iterable[Row]) -> list[str]:
    """A line for each failed row: id, kind and reason."""
    failed = (row for row in rows if row["status"] == "failed")
    return [f"[red]{escape(row['id'])}[/] {row['error_kind']}: {escape(row['error'])}" for row in failed]


def counts(num_ok: int, num_failed: int, num_done_before: int) -> str:
    """What came of the rows, in one line."""
    before = f", {num_done_before} already done" if num_done_before else ""
    return f"{num_ok + num_failed + num_done_before} rows: {num_ok} ok, {num_failed} failed{before}"


def status(table: pa.Table, run: dict[str, Any] | None) -> Table:
    """How far an output is: what the newest run is about, rows by state, seconds of each stage, video made."""
    shown = Table("", "", show_header=False, box=None, pad_edge=False)
    if run:
        shown.add_row("newest run", escape(f"{run['manifest']}, {run['model']}, started {run['started_at'][:19]} UTC"))
        shown.add_row("its rows", str(run["num_rows"]))
    ok = table.filter(pc.equal(table["status"], "ok"))
    shown.add_row("ok", f"{len(ok)} rows")
    shown.add_row("failed", f"{len(table) - len(ok)} rows")
    failed = table.filter(pc.equal(table["status"], "failed"))
    for kind, number in sorted(Counter(failed["error_kind"].to_pylist()).items()):
        shown.add_row(f"  {kind}", str(number))
    shown.add_row("video made", f"{_total(ok, 'num_frames') / FPS:.1f} s")
    for name in STAGES:
        shown.add_row(name, f"{_total(table, f'{name}_s'):.1f} s")
    return shown


def _total(table: pa.Table, column: str) -> float:
    return pc.sum(table[column]).as_py() or 0.0
