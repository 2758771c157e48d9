"""What the commands print: the rows of a manifest as checked, what came of a run, and how far an output is."""

import os
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from pipelines import results
from pipelines.stage import Row
from pipelines.status import Status, utc
from pipelines.terminal import MAX_RUNNING
from stableavatar.units import FPS

if TYPE_CHECKING:  # whoever wants to know a status need not wait for torch to load
    from pipelines.train_data import Skipped
    from stableavatar.checkpoints.inspect import FolderReport

MAX_SKIPPED = 20  # clips

Line = dict[str, Any]  # of the report about raw videos


def listing(rows: Iterable[Row], done: Collection[str] = ()) -> Table:
    """Checked rows that can be rendered; those whose file stem is in `done` are marked."""
    table = Table("id", "size", "seconds", "frames", "windows", "video", box=None, pad_edge=False)
    for row in rows:
        if row["status"] != "failed":
            stem = results.stem(row)
            size, seconds = f"{row['width']}x{row['height']}", f"{row['duration_s']:.2f}"
            video = row["video"][row["video"].rindex("/videos/") + 1 :] + (" (already done)" if stem in done else "")
            table.add_row(
                escape(row["id"]), size, seconds, str(row["num_frames"]), str(row["num_windows"]), escape(video)
            )
    for column in table.columns[1:5]:
        column.justify = "right"
    for column in (table.columns[0], table.columns[5]):
        column.overflow = "fold"
    return table


def folder(report: "FolderReport") -> Table:
    """The files of a published model."""
    table = Table("file", "for", "bytes", "tensors", "sha256", "", box=None, pad_edge=False)
    for file in report.files:
        size = "missing" if file.num_bytes is None else f"{file.num_bytes:,}"
        state = "fine" if file.is_fine else "[red]cannot be used[/]"
        table.add_row(escape(file.path), file.use, size, str(file.num_tensors or ""), file.sha256[:16], state)
    return table


def skipped(clips: "Sequence[Skipped]") -> Table:
    """Clips that a training leaves out: the first of them, and how many there are."""
    table = Table("left out", "because", box=None, pad_edge=False)
    for clip in clips[:MAX_SKIPPED]:
        table.add_row(escape(clip.folder), escape(clip.reason))
    if len(clips) > MAX_SKIPPED:
        table.add_row(f"... {len(clips)} clips in all", "see skipped.jsonl in the output")
    for column in table.columns:
        column.overflow = "fold"
    return table


def failures(rows: Iterable[Row]) -> list[str]:
    """A line for each failed row: id, kind and reason."""
    failed = (row for row in rows if row["status"] == "failed")
    return [f"[red]{escape(row['id'])}[/] {row['error_kind']}: {escape(row['error'])}" for row in failed]


def counts(num_ok: int, num_failed: int, num_done_before: int) -> str:
    """What came of the rows, in one line."""
    before = f", {num_done_before} already done" if num_done_before else ""
    return f"{num_ok + num_failed + num_done_before} rows: {num_ok} ok, {num_failed} failed{before}"


def prepared(lines: Iterable[Line]) -> Table:
    """What came of raw videos: a row for each."""
    table = Table("video", "size", "made", "kept", "skipped", "seconds of clips", box=None, pad_edge=False)
    by_video: dict[str, list[Line]] = {}
    for line in lines:
        by_video.setdefault(line["video"], []).append(line)
    for video, own in by_video.items():
        num_frames = sum(line["num_frames"] for line in own if line["status"] != "skipped")
        counts = (str(sum(line["status"] == state for line in own)) for state in ("made", "kept", "skipped"))
        table.add_row(escape(os.path.basename(video)), own[0].get("bucket", ""), *counts, f"{num_frames / FPS:.2f}")
    for column in table.columns[2:]:
        column.justify = "right"
    table.columns[0].overflow = "fold"
    return table


def skips(lines: Iterable[Line]) -> list[str]:
    """A line for each video, or part of one, that could not be used, with the reason."""
    found = (line for line in lines if line["status"] == "skipped")
    return [
        f"[red]{escape(os.path.basename(line['video']))}[/] {line['error_kind']}: {escape(line['reason'])}"
        for line in found
    ]


def status(status: Status) -> Table:
    """How far an output is: the newest run, its rows by state, what runs, speeds, and what lies there of all runs."""
    shown = Table("", "", show_header=False, box=None, pad_edge=False)
    if status.manifest:
        shown.add_row("newest run", escape(f"{status.manifest}, {status.model}, started {utc(status.started_at)}"))
    shown.add_row("state", escape(status.state))
    shown.add_row("its rows", str(status.num_rows))
    for state in ("ok", "failed", "running", "waiting", "unfinished"):
        shown.add_row(state, f"{getattr(status, f'num_{state}')} rows")
        for kind, number in status.failed_kinds.items() if state == "failed" else ():
            shown.add_row(f"  {escape(kind)}", str(number))
        for row in status.running[:MAX_RUNNING] if state == "running" else ():
            shown.add_row(f"  {escape(row['id'])}", f"{row['windows_done']:.1f} of {row['num_windows']} windows")
    if status.seconds_left:
        shown.add_row("time left", f"about {timedelta(seconds=round(status.seconds_left))}")
    if status.videos_per_hour:
        shown.add_row("speed", f"{status.videos_per_hour:.1f} videos per hour")
    if status.gpu_s_per_video_s:
        shown.add_row("cost", f"{status.gpu_s_per_video_s:.1f} s on a generator for a second of video")
    shown.add_row("video made", f"{status.num_videos} videos, {status.video_s:.1f} s")
    for name, seconds in status.stage_s.items():
        shown.add_row(name, f"{seconds:.1f} s")
    return shown
