"""Manifests from portraits and voices: which of them go together, and what their rows say. Reads and writes nothing."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.schema import MANIFEST, ManifestError

DEFAULT_ID = "{portrait}-{voice}"
ID_BY_LANGUAGE = "{portrait}-{language}"  # of voices that are named like their portraits: de/anna.wav, fr/anna.wav
WRITTEN = (".jsonl", ".ndjson", ".csv", ".parquet")  # kinds of manifests that `to_bytes` writes
TYPES = {column.name: column.type for column in MANIFEST}
Cells = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A picture, what patterns call it, and the cells of its rows, such as a prompt."""

    name: str
    reference: str  # as the manifest names it
    cells: Cells = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A sound, what patterns call it, its language if that is known, and the cells of its rows.

    `words`: the names of its folders and of the file itself; a portrait with one of these names is its own.
    """

    name: str
    reference: str
    words: tuple[str, ...] = ()
    language: str = ""
    cells: Cells = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who speaks with which voice. `is_by_name`: names said so; else everyone with every voice. `left_out`: files."""

    pairs: list[tuple[Portrait, Voice]]
    is_by_name: bool
    left_out: list[str]


def cast(portraits: Sequence[Portrait], voices: Sequence[Voice]) -> Cast:
    """Everyone speaks with every voice; but where voices are named like portraits, everyone with their own.

    A voice is named like a portrait if its file is, or begins so (`anna_de.wav`), or a folder that it lies in. One that
    lies in no folder and is named like nobody is everybody's.
    """
    names = {portrait.name for portrait in portraits}
    owners = [_owner(voice, names) for voice in voices]
    is_by_name = any(owners)

    def go_together(portrait: Portrait, voice: Voice, owner: str | None) -> bool:
        return not is_by_name or owner == portrait.name or (owner is None and len(voice.words) < 2)

    pairs = [(p, v) for p in portraits for v, owner in zip(voices, owners, strict=True) if go_together(p, v, owner)]
    used = {reference for portrait, voice in pairs for reference in (portrait.reference, voice.reference)}
    given = [portrait.reference for portrait in portraits] + [voice.reference for voice in voices]
    return Cast(pairs=pairs, is_by_name=is_by_name, left_out=[name for name in given if name not in used])


def _owner(voice: Voice, names: Collection[str]) -> str | None:
    """The portrait's name that a voice carries, the longest if there are several."""
    whole = next((word for word in voice.words if word in names), None)
    file = voice.words[-1] if voice.words else ""
    starts = (name for name in names if file.startswith(tuple(name + mark for mark in "_- .")))
    return whole or max(starts, key=len, default=None)


def build_rows(
    pairs: Sequence[tuple[Portrait, Voice]], *, id: str = DEFAULT_ID, video_name: str = "", common: Mapping = {}
) -> list[Cells]:
    """A row for each pair.

    Of one cell that several give, the voice's counts most, then the portrait's, then `common`, and least the language
    that the name of a file tells.
    `id` and `video_name` are patterns: see `fill`. Raises ManifestError: one that cannot be filled, ids not unique.
    """
    rows, known = [], []
    for number, (portrait, voice) in enumerate(pairs, start=1):
        cells = _cells(portrait, voice, common)
        fields = {**cells, "portrait": portrait.name, "voice": voice.name, "number": number}
        known.append(fields)
        names = {"id": fill("--id", id, fields)}
        names |= {"video_name": fill("--video-name", video_name, fields)} if video_name else {}
        rows.append({"portrait": portrait.reference, "audio": voice.reference, **names, **cells})
    _check_ids(rows, id, known)
    return rows


def pattern_of_ids(found: Cast, common: Mapping) -> str:
    """The ids of rows where nobody has said a pattern: by the language where that says most, which is unique."""
    fields = [{**_cells(p, v, common), "portrait": p.name} for p, v in found.pairs]
    return ID_BY_LANGUAGE if found.is_by_name and _tells_apart(ID_BY_LANGUAGE, fields) else DEFAULT_ID


def _cells(portrait: Portrait, voice: Voice, common: Mapping) -> Cells:
    language = {"language": voice.language} if voice.language else {}
    return {**language, **common, **portrait.cells, **voice.cells}


def _tells_apart(pattern: str, fields: Sequence[Cells]) -> bool:
    """Whether the pattern can be filled in all rows, and differs in each."""
    try:
        return len({fill("--id", pattern, own) for own in fields}) == len(fields)
    except ManifestError:
        return False


def fill(option: str, pattern: str, fields: Mapping[str, Any]) -> str:
    """`pattern` with `{portrait}`, `{voice}`, `{language}`, `{number:03}` or any other cell of the row filled in.

    Raises ManifestError: not a pattern, no such field, a field that this row leaves empty.
    """
    try:
        names = [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]
        for name in names:
            _check_field(option, pattern, name, fields)
        return pattern.format_map(fields)
    except ManifestError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise ManifestError(
            f"{option} {pattern!r} is no pattern ({error}); write fields in single braces, such as {DEFAULT_ID}"
        ) from error


def _check_field(option: str, pattern: str, name: str, fields: Mapping[str, Any]) -> None:
    if name in fields and fields[name] not in ("", None):
        return
    who = f"portrait {fields['portrait']} and voice {fields['voice']}"
    if name == "language":
        raise ManifestError(
            f"{option} {pattern!r}: the language of {who} is not known; name the file by it (de.wav, speech_de.wav), "
            "give --languages, or --set language=de for all"
        )
    if name in fields:
        raise ManifestError(f"{option} {pattern!r}: {name} of {who} is empty; fill it in, or leave out {{{name}}}")
    known = sorted(name for name in {*fields, "language"} if name.isidentifier())
    raise ManifestError(f"{option} {pattern!r}: there is no {{{name}}} for {who}; there is: {', '.join(known)}")


def _check_ids(rows: Sequence[Cells], pattern: str, fields: Sequence[Cells]) -> None:
    by_id = defaultdict(list)
    for row in rows:
        by_id[row["id"]].append(row)
    for id, same in by_id.items():
        if len(same) > 1:
            pairs = ", ".join(f"{row['portrait']} with {row['audio']}" for row in same[:3])
            better = (f"{pattern}-{{{name}}}" for name in ("language", "voice", "number"))
            remedy = next(longer for longer in better if _tells_apart(longer, fields))
            raise ManifestError(
                f"--id {pattern!r} gives {len(same)} rows the id {id!r} ({pairs}); add a field that tells them apart: "
                f"--id '{remedy}'"
            )


def one_cell_each(rows: Sequence[Cells]) -> list[Cells]:
    """The rows with every column that any of them has, lists and objects as JSON: what a table can hold."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: _flat(name, row.get(name)) for name in names} for row in rows]


def to_bytes(rows: Sequence[Cells], suffix: str) -> bytes:
    """The rows as a file, of one of the kinds WRITTEN."""
    if suffix in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    table = one_cell_each(rows)
    if suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
        return text.getvalue().encode()
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table, _schema(table)), file)
    return file.getvalue()


def _schema(table: Sequence[Cells]) -> pa.Schema:
    """Columns of a manifest have their own types; others are text."""
    return pa.schema([pa.field(name, TYPES.get(name, pa.string())) for name in table[0]])


def _flat(name: str, cell: Any) -> Any:
    if isinstance(cell, list | dict):
        return json.dumps(cell, ensure_ascii=False)
    return cell if cell is None or name in TYPES else str(cell)
