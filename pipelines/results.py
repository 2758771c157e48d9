"""The result table: one small Parquet file for each row, written as soon as the row is finished.

At the end of a run the small files are gathered in one. Whoever reads takes the small ones first: see `current`.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.identity import content_id, file_stem
from manifests.read import fit_carried
from manifests.schema import result_schema
from pipelines import storage
from pipelines.plan import place, unpack
from pipelines.stage import Row
from stableavatar.errors import StorageError

FILES_AT_ONCE = 16
COMPACTED = "results.parquet"
SHOWN = ("manifest", "row_number", "id", "status", "error_kind", "error")  # what the driver needs of a finished row
TIMES = ("started_at", "finished_at")
NAMED_BY = ("id", "content_id", "manifest", "row_number", "finished_at")
FAILURE = ("status", "error_kind", "error", "stage")
LONG_AGO = datetime.min.replace(tzinfo=UTC)

# Failures of a row that is what it was: the same again, most likely. All others are tried again by every run.
FINAL_KINDS = ("out_of_memory", "broken_video", "internal", "quarantined")


class WriteResult:
    """The last step: a row, finished or failed, becomes a file of the result table."""

    def __init__(self, output: str, carried: pa.Schema) -> None:
        self.output = output
        self.carried = carried

    def __call__(self, row: Row) -> Row:
        """Write the row. Gives back what the driver shows. Raises StorageError if the output refuses it."""
        status = "failed" if row["status"] == "failed" else "ok"
        row = {**row, "status": status, "finished_at": time.time()}
        file = io.BytesIO()
        pq.write_table(to_table(row, self.carried), file)
        storage.write(file.getvalue(), result_uri(self.output, row))
        return {name: row[name] for name in SHOWN}


def to_table(row: Row, carried: pa.Schema) -> pa.Table:
    """One row of the result table."""
    times = {name: datetime.fromtimestamp(row[name], UTC) for name in TIMES if row.get(name)}
    return pa.Table.from_pylist([{**row, **times, **fit_carried(unpack(row), carried)}], result_schema(carried))


def stem(row: Row) -> str:
    """The name of a row's files. One that failed before its content was known goes by its place in the manifest."""
    return file_stem(row["id"], row["content_id"] or content_id({"place": place(row)}))


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
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
        list(threads.map(_remove_unchanged, small, (digest for _, digest in small.values())))


def current(table: pa.Table) -> pa.Table:
    """One row for each file stem, the one that finished last. A failure goes when something newer is said of its row.

    That is a newer row at the same place of the manifest, or with the same id there, wherever it stands now. In one
    run only rows that failed while they were read share an id: those have nothing to say about each other.
    """
    rows = table.select([*NAMED_BY, *FAILURE]).to_pylist()
    oldest_first = sorted(range(len(rows)), key=lambda i: rows[i]["finished_at"] or LONG_AGO)
    age = {i: -rank for rank, i in enumerate(oldest_first)}
    newest = {stem(rows[i]): i for i in oldest_first}
    by_place = {place(rows[i]): i for i in oldest_first}
    by_id = {(rows[i]["manifest"], rows[i]["id"]): i for i in oldest_first if rows[i]["stage"] != "read"}

    def is_superseded(i: int) -> bool:
        newer = (by_place[place(rows[i])], by_id.get((rows[i]["manifest"], rows[i]["id"]), i))
        return rows[i]["status"] == "failed" and any(age[other] < age[i] for other in newer)

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
    with ThreadPoolExecutor(FILES_AT_ONCE) as threads:
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
    rows: Iterable[Row], table: pa.Table, output: str, retry_kinds: Collection[str] = ()
) -> tuple[list[Row], list[Row], list[Row]]:
    """(to do, done, left) of checked rows, in their order.

    Done: `table` has it as ok, under the same id and content, and its video exists. Left: it failed before, under the
    same id and content, with one of FINAL_KINDS that is not among `retry_kinds`; such a row is given as it failed.
    """
    videos = set(storage.names_in(storage.join(output, "videos")))
    old = {stem(row): row for row in table.select([*NAMED_BY, *FAILURE]).to_pylist()}
    todo, done, left = [], [], []
    for row in rows:
        before = old.get(stem(row), {"status": "", "error_kind": ""})
        if before["status"] == "ok" and f"{stem(row)}.mp4" in videos:
            done.append(row)
        elif row["status"] != "failed" and before["error_kind"] in set(FINAL_KINDS) - set(retry_kinds):
            left.append({**row, **{name: before[name] for name in FAILURE}})
        else:
            todo.append(row)
    return todo, done, left


def write_run(output: str, *, manifest: str, model: str, num_rows: int, **more: Any) -> None:
    """Note what the newest run is about, for `status`; `more` is anything that JSON can hold (see pipelines.status)."""
    run = {"manifest": manifest, "model": model, "num_rows": num_rows, "started_at": datetime.now(UTC).isoformat()}
    storage.write(json.dumps(run | more, indent=2).encode(), storage.join(output, "run.json"))


def read_run(output: str) -> dict[str, Any] | None:
    """What `write_run` noted; None if no run has begun here."""
    uri = storage.join(output, "run.json")
    try:
        return json.loads(storage.read(uri)) if storage.exists(uri) else None
    except ValueError as error:
        raise StorageError(f"{uri} is not what a run writes ({error}). Remove it.") from error
