"""What a run has to do: which rows its manifest holds, which of them are done, and in which order the rest goes."""

import pickle
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from manifests.formats import SUFFIXES
from manifests.identity import default_id
from manifests.read import fail_duplicates, parse_manifest
from manifests.schema import ManifestError
from pipelines import storage
from pipelines.stage import Row, fail

CHECKS_AT_ONCE = 8  # most of a check is waiting, for a store or for ffmpeg


def manifest_files(uri: str) -> list[str]:
    """The files of a manifest, sorted by name: the file itself, or the manifest files directly in a folder.

    Raises ManifestError if there are none, BadInput or StorageError if the store cannot be read.
    """
    uri = storage.absolute(uri)
    if not storage.is_folder(uri):
        return [uri]
    names = [name for name in storage.names_in(uri) if name.lower().endswith(SUFFIXES) and name[0] not in "._"]
    if not names:
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


def read_manifest(uri: str) -> list[Row]:
    """All rows of a manifest, read right here."""
    return [row for file in manifest_files(uri) for row in read_rows(storage.read(file), file)]


def select_rows(rows: Iterable[Row], limit: int | None, **common: Any) -> list[Row]:
    """The first `limit` rows in the manifest's order, each with an id and what is `common` to all rows of a run.

    Rows that share an id are failed.

    Raises ManifestError if a file of the manifest cannot be used.
    """
    rows = sorted(rows, key=lambda row: (row["manifest"], row["row_number"]))
    for row in rows:
        if problem := row.pop("manifest_error"):
            raise ManifestError(problem)
    return [_begin(row, common) for row in fail_duplicates(rows)][:limit]


def _begin(row: Row, common: dict[str, Any]) -> Row:
    row = {**row, **common, "id": row["id"] or default_id(row), "content_id": "", "stage": ""}
    return {**row, "stage": "read", "started_at": time.time()} if row["status"] == "failed" else row


def with_lost(rows: Iterable[Row], returned: Iterable[Row], stage: str) -> list[Row]:
    """What came back of `rows`, and those that did not, failed: each has killed its worker, again and again."""
    returned = list(returned)
    places = {place(row) for row in returned}
    reason = "the process that worked on it died every time (killed, or out of memory). See the log, and run again."
    return returned + [fail(row, stage, "worker_lost", reason) for row in rows if place(row) not in places]


def place(row: Row) -> tuple[str, int]:
    """Where a row stands: its manifest, and its number there."""
    return row["manifest"], row["row_number"]


def check_rows(rows: list[Row], check: Callable[[Row], Row]) -> list[Row]:
    """The rows as `check` leaves them, several at a time, right here."""
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as threads:
        return list(threads.map(check, rows))


def cost(row: Row) -> float:
    """How much work a row is, in no particular unit; 0 for a failed one, which only has to be written down."""
    if row["status"] == "failed":
        return 0.0
    return float(row["num_frames"] * row["width"] * row["height"] * row["num_steps"])


def longest_first(rows: Iterable[Row]) -> list[Row]:
    """Failed rows, which cost nothing, and then the others from the longest to the shortest: no long one comes last."""
    return sorted(rows, key=lambda row: (row["status"] != "failed", -cost(row)))


def pack(carried: dict[str, Any]) -> bytes:
    """Carried values as bytes, to pass through Ray unchanged."""
    return pickle.dumps(carried)


def unpack(row: Row) -> dict[str, Any]:
    """The carried values of a row."""
    return pickle.loads(row["carried"])
