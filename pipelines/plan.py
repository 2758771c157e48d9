"""What a run has to do: which rows its manifest holds, which of them are done, and in which order the rest goes."""

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from typing import Any

import pyarrow as pa

from manifests.formats import SUFFIXES
from manifests.identity import default_id
from manifests.read import fail_duplicates, parse_manifest, resolve
from manifests.redact import redacted, redacted_values
from manifests.schema import MANIFEST, ManifestError
from pipelines import storage
from pipelines.stage import Row, fail, known_place, place
from pipelines.threads import helpers
from stableavatar.errors import Quarantined, RowError
from stableavatar.tracks import moved_tracks

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
    return {**row, "stage": "read", "started_at": time.time()} if row["status"] == "failed" else row


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


def carry_over_uri(output: str) -> str:
    """Where a run that stops lists what is left."""
    return storage.join(output, "carry-over.jsonl")


def carried_over(output: str) -> str:
    """A copy of what an earlier run has left, named by its content; empty if there is nothing.

    Results name their rows by this copy: it stays as it is when the list is written again.
    """
    data = storage.read_if_there(carry_over_uri(output))
    if data is None:
        return ""
    uri = storage.join(output, f"carried-over/{hashlib.sha256(data).hexdigest()[:16]}.jsonl")
    storage.write(data, uri)
    return uri


def write_carry_over(output: str, rows: Iterable[Row], known: Container[str] | None = None) -> None:
    """List the rows that are left as a manifest: every setting filled in, files named from the root. None: no list.

    Args:
        output: where to.
        rows: what is left. One that could not be read says too little to be listed: it stays in its own manifest.
        known: ids that the run knew. What is listed already under another one stays as it is; None: nothing does.
    """
    uri = carry_over_uri(output)
    before = [] if known is None else (storage.read_if_there(uri) or b"").splitlines()
    kept = [line + b"\n" for line in before if line.strip() and _listed_id(line) not in (known or ())]
    lines = [*kept, *(_manifest_line(row) for row in rows if row["status"] != "failed")]
    if lines:
        storage.write(b"".join(lines), uri)
    else:
        storage.remove(uri)


def _listed_id(line: bytes) -> str | None:
    """The id in a line of the list; None if it has none, or somebody broke the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row.get("id") if isinstance(row, dict) else None


def _manifest_line(row: Row) -> bytes:
    given = {column.name: row[column.name] for column in MANIFEST if row[column.name] is not None}
    files = {name: resolve(row[name], row["manifest"]) for name in ("portrait", "audio")}
    moved = moved_tracks(row, lambda name: resolve(name, row["manifest"]))
    files |= {name: text for name, text in moved.items() if text is not None}
    if row["lora"]:
        from stableavatar.model.lora import parse_loras  # which loads torch

        named = ((resolve(name, row["manifest"]), weight) for name, weight in parse_loras(row["lora"]))
        files["lora"] = ",".join(f"{uri}:{weight:g}" for uri, weight in named)
    if row["segments"]:
        from stableavatar.correction.words import parse_segments

        files["base_video"] = resolve(row["base_video"], row["manifest"])
        with suppress(ValueError, RecursionError):  # what cannot be read stays as it is: the next run says so
            sentences = parse_segments(row["segments"])
            files["segments"] = json.dumps([{**vars(s), "audio": resolve(s.audio, row["manifest"])} for s in sentences])
    shown = redacted_values({**given, **files, **unpack(row)})
    return f"{json.dumps(shown, ensure_ascii=False, default=lambda value: redacted(str(value)))}\n".encode()


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
