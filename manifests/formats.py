"""From the bytes of a manifest to its records: JSON Lines, CSV and Parquet. Nothing here knows what a column means."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.schema import ManifestError

MAX_ROWS = 1_000_000  # of one Parquet file
MAX_DEPTH = 100  # of lists and objects within each other in JSON, far below what Python can follow


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row as the file has it. `line` counts from 1; None in Parquet. `problem` says why there are no cells."""

    line: int | None
    cells: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_records(data: bytes, uri: str) -> list[Record]:
    """The records of a manifest, by its suffix. A line that cannot be read becomes a record with a `problem`.

    Raises ManifestError: unknown suffix, not the format its suffix says, a column named twice.
    """
    suffix = _suffix(uri)
    if suffix not in _READERS:
        raise ManifestError(f"{uri}: unknown kind of manifest; name it {', '.join(sorted(_READERS))}")
    return list(_READERS[suffix](data, uri))


def _suffix(uri: str) -> str:
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    name = path.rsplit("/", 1)[-1]
    return f".{name.rsplit('.', 1)[-1].lower()}" if "." in name else ""


def _jsonl(data: bytes, uri: str) -> Iterator[Record]:
    # bytes.splitlines knows only \n, \r\n and \r; str.splitlines would also cut at U+2028 inside a prompt.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if line.strip():
            yield _json_record(line, number)


def _json_record(line: bytes, number: int) -> Record:
    try:
        cells = json.loads(line.decode(), object_pairs_hook=_object)
        _check_depth(cells)
        json.dumps(cells, ensure_ascii=False).encode()  # half a surrogate pair could be stored nowhere
    except UnicodeError:
        return Record(line=number, problem="not UTF-8 text; save the manifest as UTF-8")
    except RecursionError:
        return Record(line=number, problem="nested too deeply; write one flat JSON object on each line")
    except ValueError as error:
        return Record(line=number, problem=f"not JSON ({error}); write one JSON object on each line")
    if not isinstance(cells, dict):
        kind = type(cells).__name__
        return Record(line=number, problem=f"JSON, but a {kind} and no object; write one JSON object on each line")
    return Record(line=number, cells=cells)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values with one name Python would keep the last and say nothing."""
    names = Counter(name for name, _ in pairs)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice in one object")
    return dict(pairs)


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict | list):
        for cell in value.values() if isinstance(value, dict) else value:
            _check_depth(cell, depth + 1)


def _csv(data: bytes, uri: str) -> Iterator[Record]:
    # Bytes that are not UTF-8 become surrogates here, so that they spoil only their own row.
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = _csv_rows(reader, uri)
    _, header, problem = next(rows, (0, [], ""))
    if problem:
        raise ManifestError(f"{uri} (line 1): {problem}")
    names = [name.strip() for name in header]
    if not _is_utf8(names):
        raise ManifestError(f"{uri} (line 1): the column names are not UTF-8 text; save the manifest as UTF-8")
    _check_unique(names, uri)
    for line, cells, problem in rows:
        yield Record(line=line, problem=problem) if problem else _csv_record(line, names, cells)


def _csv_rows(reader: Any, uri: str) -> Iterator[tuple[int, list[str], str]]:
    """(first line, cells, problem) of every row that is not blank."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):  # an open quote has swallowed all rows that follow
                raise ManifestError(f"{uri} (line {line}): a quote is opened and never closed; close it") from error
            yield line, [], f'not CSV ({error}); put cells that hold quotes in quotes, each quote doubled ("")'
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells, ""


def _csv_record(line: int, names: list[str], cells: list[str]) -> Record:
    if len(cells) != len(names):
        found = f"{len(cells)} cells where the header has {len(names)}"
        return Record(line=line, problem=f"{found}; put cells that hold commas in quotes")
    if not _is_utf8(cells):
        return Record(line=line, problem="not UTF-8 text; save the manifest as UTF-8")
    return Record(line=line, cells=dict(zip(names, cells, strict=True)))


def _is_utf8(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeError:
        return False
    return True


def _parquet(data: bytes, uri: str) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        _check_unique(file.schema_arrow.names, uri)
        if file.metadata.num_rows > MAX_ROWS:  # equal rows take no room in the file, but in memory
            raise ManifestError(f"{uri} has {file.metadata.num_rows:,} rows; split it, at {MAX_ROWS:,} rows at most")
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except ManifestError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # also text that is not UTF-8
        raise ManifestError(f"{uri}: not a Parquet file that can be read ({error}); write it again") from error
    return (Record(line=None, cells=cells) for cells in rows)


def _check_unique(names: list[str], uri: str) -> None:
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise ManifestError(f"{uri}: column `{twice[0]}` is there twice; rename one of them")


# What a folder of manifests is searched for. A single file may also be called .json.
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet", ".pq")
_READERS: dict[str, Callable[[bytes, str], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
    ".pq": _parquet,
}
