"""The result table: one small Parquet file for each row, written as soon as the row is finished.

At the end of a run the small files are gathered in one. Whoever reads takes the small ones first: see `current`.
"""

import hashlib
import io
import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.identity import content_id, file_stem, video_stem
from manifests.read import fit_carried
from manifests.redact import redacted
from manifests.schema import result_schema
from pipelines import checkpoint, storage
from pipelines.logs import working_on
from pipelines.plan import unpack
from pipelines.stage import Row, fail, known_place, place
from pipelines.threads import helpers
from stableavatar.errors import BrokenVideo, NetworkError, RowError, StorageError

FILES_AT_ONCE = 16
COMPACTED = "results.parquet"
REPORT = "report.html"
# What the driver, and whoever observes the run there, needs of a finished row.
SHOWN = (
    *("manifest", "row_number", "id", "content_id", "status", "error_kind", "error", "stage", "video", "attempts"),
    *("gpu_s", "generate_s", "sample_s", "num_frames", "num_windows", "started_at", "finished_at", "spans"),
)
TIMES = ("started_at", "finished_at")
NAMED_BY = ("id", "content_id", "manifest", "row_number", "finished_at")
FAILURE = ("status", "error_kind", "error", "stage")
DEFAULT_ID = re.compile("_[0-9a-f]{8}$")
LONG_AGO = datetime.min.replace(tzinfo=UTC)

# Failures of a row that is what it was: the same again, most likely. All others are tried again by every run.
FINAL_KINDS = ("out_of_memory", "broken_video", "internal", "quarantined")
OUTER_KINDS = (NetworkError.kind, StorageError.kind)  # no fault of the row: the next night has it too

logger = logging.getLogger(__name__)


class WriteResult:
    """The last step: a row, finished or failed, becomes a file of the result table."""

    def __init__(self, output: str, carried: pa.Schema, run_began_at: float = 0.0) -> None:
        """`run_began_at`: in seconds since 1970. No row ends before, also where a clock lags behind the driver's."""
        self.output = output
        self.carried = carried
        self.run_began_at = run_began_at

    def __call__(self, row: Row) -> Row:
        """Write the row, unless it is unfinished. Gives back what the driver needs of it.

        Raises StorageError if the output refuses it. One that cannot be reached fails the row, which is tried again.
        """
        if row["status"] != "unfinished":
            status = "failed" if row["status"] == "failed" else "ok"
            row = {**row, "status": status, "finished_at": max(time.time(), self.run_began_at)}
            try:
                with working_on(row, "write"):
                    self._write(row)
            except NetworkError as error:
                row = fail(row, "write", error.kind, str(error))
        return {name: row.get(name) for name in SHOWN}

    def _write(self, row: Row) -> None:
        file = io.BytesIO()
        pq.write_table(to_table(row, self.carried), file)
        storage.write(file.getvalue(), result_uri(self.output, row))
        # Only now: whoever comes after a kill between the two finds the row, or all that is needed to go on.
        is_over = row["status"] == "ok" or row["error_kind"] == BrokenVideo.kind
        checkpoint.forget(self.output, stem(row), always=is_over)


def to_table(row: Row, carried: pa.Schema) -> pa.Table:
    """One row of the result table, without credentials."""
    times = {name: datetime.fromtimestamp(row[name], UTC) for name in TIMES if row.get(name)}
    row = {**row, **times, **fit_carried(unpack(row), carried)}
    shown = {name: redacted(value) if isinstance(value, str) else value for name, value in row.items()}
    return pa.Table.from_pylist([shown], result_schema(carried))


def stem(row: Row) -> str:
    """The name of a row's files. One that failed before its content was known goes by its place in the manifest."""
    return file_stem(row["id"], row["content_id"] or content_id({"place": known_place(row)}))


def result_uri(output: str, row: Row) -> str:
    """Where the row's result lies."""
    return storage.join(output, f"results/{stem(row)}.parquet")


def read_results(output: str) -> pa.Table:
    """The result table of an output, also while a run goes on: each row once, as `current` has it. It may be empty."""
    small = _read_small(output)  # first: what is missing here because it was compacted is in the file that comes next
    return _whole(output, [table for table, _ in small.values()])


def compact(output: str, check: Callable[[], None] = lambda: None) -> None:
    """Gather what `read_results` gives in `<output>/results.parquet`, and remove the small files that are in it.

    Readers see every row all the time, also if this is killed at any point. `check` is called before anything is
    written or removed and may raise: where two runs do this at once, the slower one must not write what it read long
    ago. A small file that was written again in the meantime stays.
    """
    small = _read_small(output)
    if not small:
        return
    file = io.BytesIO()
    pq.write_table(_whole(output, [table for table, _ in small.values()]), file)
    check()
    storage.write(file.getvalue(), storage.join(output, COMPACTED))
    check()
    with helpers(FILES_AT_ONCE) as threads:
        list(threads.map(_remove_unchanged, small, (digest for _, digest in small.values())))


def try_to_compact(output: str, check: Callable[[], None]) -> None:
    """`compact`, while a run goes on: if the store fails now, the next time or the end of the run will do."""
    try:
        compact(output, check)
    except RowError as error:
        logger.warning("the result table could not be compacted: %s", error)


def current(table: pa.Table) -> pa.Table:
    """One row for each file stem, the one that finished last. A failure goes when something newer is said of its row.

    That is a newer row with the same id in the same manifest, wherever it stands now; for a row whose id was made from
    its words, and changes with them, also one at the same place. In one run only rows that failed while they were read
    share an id: those have nothing to say about each other.
    """
    rows = table.select([*NAMED_BY, *FAILURE]).to_pylist()
    oldest_first = sorted(range(len(rows)), key=lambda i: rows[i]["finished_at"] or LONG_AGO)
    age = {i: -rank for rank, i in enumerate(oldest_first)}
    newest = {stem(rows[i]): i for i in oldest_first}
    by_place = {place(rows[i]): i for i in oldest_first}
    by_id = {(rows[i]["manifest"], rows[i]["id"]): i for i in oldest_first if rows[i]["stage"] != "read"}

    def is_superseded(i: int) -> bool:
        row = rows[i]
        at_place, with_id = by_place[place(row)], by_id.get((row["manifest"], row["id"]), i)
        is_same = rows[at_place]["id"] == row["id"] or DEFAULT_ID.search(row["id"])
        newer = (at_place if is_same else i, with_id)
        return row["status"] == "failed" and any(age[other] < age[i] for other in newer)

    kept = sorted(i for i in newest.values() if not is_superseded(i))
    return table.take(pa.array(kept, pa.int64()))


def _whole(output: str, small: list[pa.Table]) -> pa.Table:
    """The small tables and what was compacted before, as one."""
    uri = storage.join(output, COMPACTED)
    data = storage.read_if_there(uri)
    compacted = [] if data is None else [_parse(data, uri)]
    return current(concat([result_schema().empty_table(), *compacted, *small]))


def _read_small(output: str) -> dict[str, tuple[pa.Table, bytes]]:
    """The files with one row each: table and hash of each, by URI."""
    folder = storage.join(output, "results")
    uris = [storage.join(folder, name) for name in storage.names_in(folder) if name.endswith(".parquet")]
    with helpers(FILES_AT_ONCE) as threads:
        files = zip(uris, threads.map(storage.read_if_there, uris), strict=True)
        return {uri: (_parse(data, uri), _digest(data)) for uri, data in files if data is not None}


def _remove_unchanged(uri: str, digest: bytes) -> None:
    data = storage.read_if_there(uri)
    if data is not None and _digest(data) == digest:
        storage.remove(uri)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _parse(data: bytes, uri: str) -> pa.Table:
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)  # half the time of read_table
    except pa.ArrowInvalid as error:
        raise StorageError(f"{uri} is not a result that can be read ({error}). Remove it, and run again.") from error


def concat(tables: list[pa.Table]) -> pa.Table:
    """One table of all rows. A carried column that has different types in different runs becomes text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        own = set(result_schema().names)
        return pa.concat_tables([_carried_as_text(table, own) for table in tables], promote_options="permissive")


def _carried_as_text(table: pa.Table, own: set[str]) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name not in own and table.schema.field(name).type != pa.string():
            values = [None if v is None else json.dumps(v, default=str) for v in table[name].to_pylist()]
            table = table.set_column(index, name, pa.array(values, pa.string()))
    return table


def split_finished(
    rows: Iterable[Row], table: pa.Table, output: str, retry: Collection[str] | None = None
) -> tuple[list[Row], list[Row], list[Row]]:
    """(to do, done, left) of checked rows, in their order.

    Done: `table` has it as ok, under the same id and content, and its video exists. Left: it failed before, under the
    same id and content, with one of FINAL_KINDS; such a row is given as it failed. With `retry`, there is nothing to do
    but rows that failed before with one of these kinds, of whichever they are.
    """
    videos = set(storage.names_under(storage.join(output, "videos")))
    before = {stem(row): row for row in table.select([*NAMED_BY, *FAILURE]).to_pylist()}
    todo, done, left = [], [], []
    for row in rows:
        old = before.get(stem(row), {"status": "", "error_kind": ""})
        unread = before.get(stem({**row, "content_id": ""}), old)  # it failed before its content was known
        if old["status"] == "ok" and _video_name(row) in videos:
            done.append(row)
        elif {old["error_kind"], unread["error_kind"]} & set(retry or ()):
            todo.append(row)
        elif row["status"] != "failed" and old["error_kind"] in FINAL_KINDS:
            left.append({**row, **{name: old[name] for name in FAILURE}})
        elif retry is None:
            todo.append(row)
        elif unread["status"] == "failed":
            left.append({**row, **{name: unread[name] for name in FAILURE}})
    return todo, done, left


def with_twins(rows: Iterable[Row], table: pa.Table, output: str) -> list[Row]:
    """The rows with `twin`: URI of a video with the same content that has another id; empty if there is none.

    It was made before, or will be made in this run, for the first of the rows that are the same.
    """
    named_by = ["id", "content_id", "video_name"]
    finished = table.filter(pc.equal(table["status"], "ok")).select(named_by).to_pylist()
    first = {row["content_id"]: (row["id"], video_uri(output, row)) for row in finished}
    return [{**row, "twin": _twin(row, first, output)} for row in rows]


def _twin(row: Row, first: dict[str, tuple[str, str]], output: str) -> str:
    mine = row["id"], video_uri(output, row)
    found = first.setdefault(row["content_id"], mine) if row["status"] == "ready" else mine
    return "" if found == mine else found[1]


def video_uri(output: str, row: Row) -> str:
    """Where the video of a row lies: named by content too, so no row with another one has this name."""
    return storage.join(output, f"videos/{_video_name(row)}")


def sheet_uri(output: str, row: Row) -> str:
    """Where the contact sheet of a row's video lies."""
    return storage.join(output, f"sheets/{stem(row)}.jpg")


def _video_name(row: Row) -> str:
    return f"{video_stem(row['video_name'], row['content_id'])}.mp4" if row.get("video_name") else f"{stem(row)}.mp4"


def clean_up(output: str, done: Iterable[Row]) -> None:
    """Remove what killed runs have left: checkpoints of rows that are done, files half-written on a local disk."""
    done = list(done)
    over = {stem(row) for row in done}
    for name in storage.folders_in(storage.join(output, "checkpoints")):
        if name in over:
            checkpoint.forget(output, name, always=True)
    folders = {output, *(storage.join(output, name) for name in ("results", "videos"))}
    for folder in folders | {video_uri(output, row).rpartition("/")[0] for row in done}:
        storage.remove_parts(folder)


def write_run(
    output: str, *, manifest: str, model: str, num_rows: int, began_at: float | None = None, **more: Any
) -> dict[str, Any]:
    """Note what the newest run is about, for `status`; `more` is anything that JSON can hold (see pipelines.status).

    `began_at`: in seconds since 1970; None: now. Gives what it wrote.
    """
    started_at = datetime.fromtimestamp(time.time() if began_at is None else began_at, UTC).isoformat()
    run = {"manifest": manifest, "model": model, "num_rows": num_rows, "started_at": started_at}
    text = redacted(json.dumps(run | more, indent=2))
    storage.write(text.encode(), storage.join(output, "run.json"))
    return json.loads(text)


def read_run(output: str) -> dict[str, Any] | None:
    """What `write_run` noted; None if no run has begun here."""
    uri = storage.join(output, "run.json")
    try:
        return json.loads(storage.read(uri)) if storage.exists(uri) else None
    except ValueError as error:
        raise StorageError(f"{uri} is not what a run writes ({error}). Remove it.") from error
