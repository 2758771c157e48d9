"""What a run has to do: which rows its manifest holds, which of them are done, and in which order the rest goes."""

import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from manifests.formats import SUFFIXES
from manifests.identity import default_id
from manifests.read import fail_duplicates, parse_manifest
from manifests.redact import redacted
from manifests.schema import ManifestError
from pipelines import storage
from pipelines.stage import Row, fail, known_place, place
from pipelines.threads import helpers
from stableavatar.errors import Quarantined, RowError

DEADLY = (
    "three processes that worked on it died (killed, or out of memory). See the log; "
    "`stableavatar retry` tries it again."
)
CHECKS_AT_ONCE = 8  # most of a check is waiting, for a store or for ffmpeg


def manifest_files(uri: str, *, may_be_empty: bool = False) -> list[str]:
    """The files of a manifest, sorted by name: the file itself, or the manifest files directly in a folder.

    `may_be_empty`: a folder, which is then named with a slash at its end, may hold none, or not be there: S3 has no
    empty ones.

    Raises ManifestError if there are none, BadInput or StorageError if the store cannot be read.
    """
    may_be_empty = may_be_empty and uri.endswith("/")
    uri = storage.absolute(uri)
    if may_be_empty and not storage.exists(uri):
        return []
    if not storage.is_folder(uri):
        return [uri]
    names = [name for name in storage.names_in(uri) if name.lower().endswith(SUFFIXES) and name[0] not in "._"]
    if not (names or may_be_empty):
        raise ManifestError(f"{uri} holds no manifest. Its name must end in one of {', '.join(SUFFIXES)}.")
    return [storage.join(uri, name) for name in names]


def read_rows(data: bytes, uri: str) -> list[Row]:
    """The rows of one manifest file, `carried` packed into bytes: its values may be of any type, different in each row.

    A file that cannot be used at all gives one row with `manifest_error`: errors of users travel as data.
    """
    try:
        return [{**row, "carried": pack(row["carried"]), "manifest_error": ""} for row in parse_manifest(data, uri)]
    except ManifestError as error:
        return [{"manifest": uri, "row_number": 0, "manifest_error": str(error)}]


def read_file(uri: str) -> list[Row]:
    """The same of the file at `uri`. One that cannot be read gives such a row too."""
    try:
        data = storage.read(uri)
    except RowError as error:
        return [{"manifest": uri, "row_number": 0, "manifest_error": str(error)}]
    return read_rows(data, uri)


def read_manifest(uri: str, *, may_be_empty: bool = False) -> list[Row]:
    """All rows of a manifest, read right here. `may_be_empty` and errors as with `manifest_files`."""
    return [row for file in manifest_files(uri, may_be_empty=may_be_empty) for row in read_file(file)]


def select_rows(rows: Iterable[Row], limit: int | None, carried: str = "", **common: Any) -> list[Row]:
    """The first `limit` rows in the manifest's order, each with an id and what is `common` to all rows of a run.

    Before them those of the list `carried`, if there is one, and with it `is_carried`, which brings rows forward. A row
    that is also in the manifest, by its id, is the manifest's, brought forward. Rows that share an id are failed.

    Raises ManifestError if a file of the manifest cannot be used.
    """
    rows = sorted(rows, key=lambda row: (row["manifest"], row["row_number"]))
    for row in rows:
        if problem := row.pop("manifest_error"):
            raise ManifestError(problem)
    earlier = [_begin(row, common) for row in fail_duplicates(row for row in rows if row["manifest"] == carried)]
    chosen = [_begin(row, common) for row in fail_duplicates(row for row in rows if row["manifest"] != carried)][:limit]
    waiting = {row["id"] for row in earlier}
    given = {row["id"] for row in chosen if row["status"] != "failed"}  # a row that cannot be read replaces none
    rows = [*(row for row in earlier if row["id"] not in given), *chosen]
    return [{**row, "is_carried": row["id"] in waiting} for row in rows]


def _begin(row: Row, common: dict[str, Any]) -> Row:
    row = {**row, **common, "id": row["id"] or default_id(row), "content_id": "", "stage": ""}
    row |= {"attempts": 1, "gpu_s": 0.0}
    if row["status"] == "failed":
        row |= {"stage": "read", "started_at": time.time(), "error": redacted(row["error"])}
    return row


def missing(rows: Iterable[Row], returned: Iterable[Row]) -> list[Row]:
    """Those of `rows` that are not among the returned ones."""
    places = {place(row) for row in returned}
    return [row for row in rows if place(row) not in places]


def lost(rows: Iterable[Row], returned: Iterable[Row], stage: str) -> list[Row]:
    """Those of `rows` that did not come back, failed: each has killed every process that worked on it."""
    failed = (fail(row, stage, Quarantined.kind, DEADLY) for row in missing(rows, returned))
    return [{**row, "attempts": row["attempts"] + 2} for row in failed]


def with_history(rows: Iterable[Row], table: pa.Table) -> list[Row]:
    """The rows, counting on from what the result table says of earlier attempts that failed."""
    columns = ["manifest", "row_number", "content_id", "status", "attempts", "gpu_s"]
    before = {place(old): old for old in table.select(columns).to_pylist() if old["status"] == "failed"}
    return [_count_on(row, before.get(known_place(row))) for row in rows]


def _count_on(row: Row, before: Row | None) -> Row:
    # A row that says something else now is another row, and begins anew.
    if not before or before["content_id"] not in ("", row["content_id"]):
        return row
    return {**row, "attempts": (before["attempts"] or 0) + 1, "gpu_s": before["gpu_s"] or 0.0}


def check_rows(rows: list[Row], check: Callable[[Row], Row]) -> list[Row]:
    """The rows as `check` leaves them, several at a time, right here."""
    with helpers(CHECKS_AT_ONCE) as threads:
        return list(threads.map(check, rows))


def pack(carried: dict[str, Any]) -> bytes:
    """Carried values as bytes, to pass through Ray unchanged."""
    return pickle.dumps(carried)


def unpack(row: Row) -> dict[str, Any]:
    """The carried values of a row."""
    return pickle.loads(row["carried"])
