"""Reading manifests: every row is typed and checked, and a bad row fails alone, with a message that says the remedy."""

import difflib
import json
import logging
import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from manifests.cells import BadCell, Value, convert, shown
from manifests.formats import Record, read_records
from manifests.identity import default_id
from manifests.schema import MANIFEST, MANIFEST_NAMES, RESERVED_NAMES, TEXT, ManifestError

logger = logging.getLogger(__name__)

MAX_NAMED_ROWS = 5  # how many other rows a message names


def parse_manifest(data: bytes, uri: str) -> Iterator[dict[str, Any]]:
    """The rows of one manifest file: JSON Lines, CSV or Parquet by the suffix of `uri`.

    A row has `manifest`, `row_number` (from 1), every MANIFEST column (None if absent, null or blank), `carried` (all
    other columns as Python values), `status` ("ready" or "failed"), `error_kind` and `error`. A carried column that has
    the name of one that the result table fills itself is carried as `manifest_<name>`; in a result table that is fed in
    again, those are dropped. Columns without a name are dropped.
    NaN is an error and not an empty cell: pandas writes missing values as null or as an empty cell already.

    Raises ManifestError at once: unknown kind of file, not readable, empty, or without `portrait` or `audio`.
    """
    records = read_records(data, uri)
    _check_columns(records, uri)
    names = _carried_names(records)
    return (_row(number, record, uri, names) for number, record in enumerate(records, start=1))


def resolve(reference: str, manifest_uri: str) -> str:
    """Where `reference` in the manifest points: relative paths start at the manifest; absolute ones and URIs stay."""
    if "://" in reference or reference.startswith("/"):
        return reference
    scheme, separator, location = manifest_uri.partition("://")
    if not separator:
        return os.path.join(os.path.abspath(os.path.dirname(manifest_uri)), reference)
    if scheme in ("http", "https"):
        location = location.split("?")[0].split("#")[0]
    root, slash, key = location.partition("/")
    if not slash:
        return f"{scheme}://{reference}"
    # Object stores know no "..", so it is worked out here; the root of the store is as high as it goes.
    path = posixpath.normpath(posixpath.join("/", posixpath.dirname(key), reference))
    return f"{scheme}://{root}/{path.lstrip('/')}"


def fail_duplicates(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, but every ready row that shares its id with another one is failed. Messages name the others.

    Rows without an id count under their default id: two rows that say the same are one video asked for twice.
    """
    rows = list(rows)
    sharing: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["id"] is not None or row["status"] == "ready":
            sharing[_own_id(row)].append(row)
    return [_failed_duplicate(row, sharing[_own_id(row)]) if row["status"] == "ready" else row for row in rows]


def carried_schema(rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """One arrow type for each carried column, over all rows. Where values do not agree it is text (see fit_carried)."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row["carried"].items():
            columns.setdefault(name, []).append(value)
    return pa.schema([pa.field(name, _arrow_type(values)) for name, values in columns.items()])


def fit_carried(carried: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The values of `carried` for the columns of `schema`: None where absent, JSON where the column became text."""
    fitted: dict[str, Any] = {}
    for column in schema:
        value = carried.get(column.name)
        is_text = value is None or isinstance(value, str) or column.type != TEXT
        fitted[column.name] = value if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return fitted


def _check_columns(records: list[Record], uri: str) -> None:
    problems = [record for record in records if record.problem]
    if not records:
        raise ManifestError(f"{uri}: the manifest is empty; write one row for each video")
    if len(problems) == len(records):
        raise ManifestError(f"{uri}: no row can be read; line {records[0].line} is {records[0].problem}")
    found = list(dict.fromkeys(name for record in records for name in record.cells))
    for column in MANIFEST:
        if column.required and column.name not in found:
            raise ManifestError(f"{uri} has no column `{column.name}`; {_remedy(column.name, found)}")
        near = _near(column.name, found, cutoff=0.85)
        if near and column.name not in found:
            logger.warning("%s: column `%s` is only carried; did you mean `%s`?", uri, near, column.name)


def _remedy(name: str, found: list[str]) -> str:
    if len(found) == 1 and any(mark in found[0] for mark in ";\t"):
        return "separate the columns by commas"
    near = _near(name, found, cutoff=0.6)
    if near:
        return f"did you mean `{name}` by `{near}`? Rename it"
    return f"add it. Columns found: {', '.join(found) or 'none'}"


def _near(name: str, found: list[str], cutoff: float) -> str | None:
    """The column that was probably meant by `name`, among those that mean nothing."""
    unknown = {other.strip().lower(): other for other in found if other not in MANIFEST_NAMES | RESERVED_NAMES}
    matches = difflib.get_close_matches(name, unknown, n=1, cutoff=cutoff)
    return unknown[matches[0]] if matches else None


def _carried_names(records: list[Record]) -> dict[str, str]:
    """For each column that is only carried, the name it has in the result table."""
    found = list(dict.fromkeys(name for record in records for name in record.cells))
    is_result_table = set(found) >= RESERVED_NAMES
    own = [name for name in found if name and name not in MANIFEST_NAMES]
    if is_result_table:
        return {name: name for name in own if name not in RESERVED_NAMES}
    return {name: f"manifest_{name}" if name in RESERVED_NAMES else name for name in own}


def _row(number: int, record: Record, uri: str, carried_names: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Value] = {column.name: None for column in MANIFEST}
    problems = [record.problem] if record.problem else []
    for column in () if record.problem else MANIFEST:
        try:
            values[column.name] = convert(column, _cell(record, column.name))
        except BadCell as error:
            problems.append(str(error))
    problems += [] if problems else _contradictions(values)
    carried = {carried_names[name]: value for name, value in record.cells.items() if name in carried_names}
    where = _position(number, uri) + (f" (line {record.line})" if record.line else "")
    row = {"manifest": uri, "row_number": number, **values, "carried": carried}
    row |= {"status": "ready", "error_kind": "", "error": ""}
    return _failed(row, f"{where}: {'. '.join(problems)}") if problems else row


def _cell(record: Record, name: str) -> Any:
    """A cell; in files that have lines, blanks around text are the writer's layout."""
    cell = record.cells.get(name)
    return cell.strip() if isinstance(cell, str) and record.line and name in ("portrait", "audio", "id") else cell


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    problems = []
    start_s, end_s = values["start_s"] or 0.0, values["end_s"]
    if end_s is not None and start_s >= end_s:
        problems.append(f"start_s is {start_s:g} and end_s is {end_s:g}; let end_s be greater than start_s")
    if (values["width"] is None) != (values["height"] is None):
        given, missing = ("width", "height") if values["height"] is None else ("height", "width")
        problems.append(f"{given} is {values[given]} and {missing} is empty; give both or neither")
    if (values["base_video"] is None) != (values["segments"] is None):
        given, missing = ("base_video", "segments") if values["segments"] is None else ("segments", "base_video")
        problems.append(f"{given} is given and {missing} is empty; give both to correct a video, or neither")
    return problems


def _own_id(row: Mapping[str, Any]) -> str:
    return row["id"] if row["id"] is not None else default_id(row)


def _failed_duplicate(row: dict[str, Any], sharing: list[dict[str, Any]]) -> dict[str, Any]:
    others = [_position(other["row_number"], other["manifest"]) for other in sharing if other is not row]
    if not others:
        return row
    names = ", ".join(others[:MAX_NAMED_ROWS])
    names += f" and {len(others) - MAX_NAMED_ROWS} more" if len(others) > MAX_NAMED_ROWS else ""
    where = _position(row["row_number"], row["manifest"])
    if row["id"] is None:
        return _failed(row, f"{where} asks for the same video as {names}; remove one or give each an id")
    return _failed(row, f"{where}: id is {shown(row['id'])}, as in {names}; give each row an id of its own")


def _failed(row: dict[str, Any], error: str) -> dict[str, Any]:
    return row | {"status": "failed", "error_kind": "bad_input", "error": error}


def _position(number: int, uri: str) -> str:
    return f"row {number} of {uri}"


def _arrow_type(values: list[Any]) -> pa.DataType:
    try:
        type = pa.array(values).type
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return TEXT
    return type if _storable(type) else TEXT


def _storable(type: pa.DataType) -> bool:
    """Whether Parquet can hold the type: no column of nulls alone, no object without a key."""
    children = [type.field(i).type for i in range(type.num_fields)]
    return (
        not pa.types.is_null(type)
        and (bool(children) or not pa.types.is_struct(type))
        and all(map(_storable, children))
    )
