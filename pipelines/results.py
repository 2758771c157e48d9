"""The result table: one small Parquet file for each row, written as soon as the row is finished."""

import io
import json
import time
from collections.abc import Iterable
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

READS_AT_ONCE = 16
SHOWN = ("manifest", "row_number", "id", "status", "error_kind", "error")  # what the driver needs of a finished row
TIMES = ("started_at", "finished_at")


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
    """The whole result table of an output, also while a run goes on; without rows if there is none yet."""
    folder = storage.join(output, "results")
    files = [storage.join(folder, name) for name in storage.names_in(folder) if name.endswith(".parquet")]
    with ThreadPoolExecutor(READS_AT_ONCE) as threads:
        tables = list(threads.map(_read_table, files))
    return concat([result_schema().empty_table(), *tables])


def _read_table(uri: str) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(storage.read(uri)))
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


def split_finished(rows: Iterable[Row], table: pa.Table, output: str) -> tuple[list[Row], list[Row]]:
    """(to do, done): a row is done if `table` has it as ok, under the same id and content, and its video exists."""
    videos = set(storage.names_in(storage.join(output, "videos")))
    old = table.select(["id", "content_id", "status", "manifest", "row_number"]).to_pylist()
    finished = {stem(row) for row in old if row["status"] == "ok" and f"{stem(row)}.mp4" in videos}
    rows = list(rows)
    return [row for row in rows if stem(row) not in finished], [row for row in rows if stem(row) in finished]


def forget_failures(rows: Iterable[Row], table: pa.Table, output: str) -> None:
    """Remove what earlier runs of the same manifest said about failures of these rows: this run says it anew."""
    rows = list(rows)
    known = {place(row) for row in rows} | {(row["manifest"], row["id"]) for row in rows}
    for old in table.select(["id", "content_id", "status", "manifest", "row_number"]).to_pylist():
        if old["status"] == "failed" and {place(old), (old["manifest"], old["id"])} & known:
            storage.remove(result_uri(output, old))


def write_run(output: str, *, manifest: str, model: str, num_rows: int) -> None:
    """Note what the newest run is about, for `status`."""
    run = {"manifest": manifest, "model": model, "num_rows": num_rows, "started_at": datetime.now(UTC).isoformat()}
    storage.write(json.dumps(run, indent=2).encode(), storage.join(output, "run.json"))


def read_run(output: str) -> dict[str, Any] | None:
    """What `write_run` noted; None if no run has begun here."""
    uri = storage.join(output, "run.json")
    try:
        return json.loads(storage.read(uri)) if storage.exists(uri) else None
    except ValueError as error:
        raise StorageError(f"{uri} is not what a run writes ({error}). Remove it.") from error
