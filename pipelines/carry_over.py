"""What a run leaves to the next one: `<output>/carry-over.jsonl`, a manifest of the rows that are not made yet."""

import hashlib
import json
from collections.abc import Container, Iterable
from contextlib import suppress

from manifests.read import resolve
from manifests.redact import redacted, redacted_values
from manifests.schema import MANIFEST
from pipelines import storage
from pipelines.plan import unpack
from pipelines.results import OUTER_KINDS
from pipelines.stage import Row
from stableavatar.tracks import moved_tracks

LIST = "carry-over.jsonl"


def list_uri(output: str) -> str:
    """Where a run lists what is left."""
    return storage.join(output, LIST)


def find_list(output: str, carry_over: bool | str, *, keep: bool = True) -> str:
    """The URI of the list whose rows come before the manifest; empty if there is none.

    Args:
        output: where the run writes to.
        carry_over: True: what an earlier run there has left; or the URI of another list.
        keep: give a copy of what was left, named by its content. Results name their rows by it: it stays as it is when
            the list is written again. False: nothing is written.
    """
    if carry_over is not True:
        return storage.absolute(carry_over) if carry_over else ""
    data = storage.read_if_there(list_uri(output))
    if data is None:
        return ""
    if not keep:
        return list_uri(output)
    uri = storage.join(output, f"carried-over/{hashlib.sha256(data).hexdigest()[:16]}.jsonl")
    storage.write(data, uri)
    return uri


def write_list(output: str, rows: Iterable[Row], known: Container[str] | None = None) -> None:
    """List the rows that are left as a manifest: every setting filled in, files named from the root. None: no list.

    Args:
        output: where to.
        rows: what is left. Of those that failed only what a store or the network did is listed. One that could not be
            read says too little: it stays in its own manifest.
        known: ids that the run knew. What is listed already under another one stays as it is; None: nothing does.
    """
    uri = list_uri(output)
    before = [] if known is None else (storage.read_if_there(uri) or b"").splitlines()
    kept = [line + b"\n" for line in before if line.strip() and _listed_id(line) not in (known or ())]
    lines = [*kept, *(_manifest_line(row) for row in rows if _is_left(row))]
    if lines:
        storage.write(b"".join(lines), uri)
    else:
        storage.remove(uri)


def _is_left(row: Row) -> bool:
    return row["status"] != "failed" or (row["error_kind"] in OUTER_KINDS and row["stage"] != "read")


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
