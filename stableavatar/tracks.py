"""What a video carries beside its picture and its own sound: subtitles and further sounds, each with its language."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stableavatar.errors import BadInput
from stableavatar.languages import to_iso639_2

SOUND, SUBTITLES = "sound", "subtitles"
KINDS = {"audio_tracks": SOUND, "subtitles": SUBTITLES}  # by the column that names them; in the order of the file
SUFFIXES = {SOUND: "m4a", SUBTITLES: "srt"}  # of the files that a video is joined from


@dataclass(frozen=True, kw_only=True)
class Track:
    """A track in a file of its own, as the video is joined from it: AAC of exactly its length, or SRT."""

    kind: str  # SOUND or SUBTITLES
    language: str  # ISO 639-2, such as deu; empty if unknown
    path: str


def parse_tracks(column: str, text: str | None) -> dict[str, str]:
    """Read `en=a.srt,de=b.vtt` as files by language tag; the tag of one without a language is empty.

    What stands before the first `=` of an address or a path (`https://x/a.srt?sig=1`) is no tag. Other files whose name
    holds a comma or an equals sign are named in JSON: `{"en": "a,b.srt"}`.
    Raises BadInput, with the name of the column.
    """
    text = (text or "").strip()
    if text[:1] in ("{", "["):
        return _parse_json(column, text)
    files: dict[str, str] = {}
    for part in text.split(",") if text else ():
        first, separator, rest = part.partition("=")
        tagged = separator and "/" not in first
        tag, reference = (first.strip(), rest.strip()) if tagged else ("", part.strip())
        if not reference:
            raise BadInput(f"{column} is {text!r}, where a file is missing. {_example(column)}")
        if tag in files:
            named = f"`{tag}`" if tag else "no language"
            raise BadInput(f"{column} names two files with {named}. Give each a language of its own.")
        _iso639_2(column, tag)
        files[tag] = reference
    return files


def format_tracks(files: Mapping[str, str]) -> str | None:
    """The text that `parse_tracks` reads as `files`; None if there are none."""
    return json.dumps(files, ensure_ascii=False) if files else None


def moved_tracks(row: Mapping[str, Any], resolve: Callable[[str], str]) -> dict[str, str | None]:
    """The columns of a row that name tracks, each file as `resolve` names it. What cannot be read stays as it is."""
    return {column: _moved(column, row[column], resolve) for column in KINDS}


def _moved(column: str, text: str | None, resolve: Callable[[str], str]) -> str | None:
    try:
        files = parse_tracks(column, text)
    except BadInput:
        return text
    return format_tracks({tag: resolve(name) for tag, name in files.items()})


def row_tracks(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(kind, language as in `Track`, file as the row names it) of every track that a row asks for.

    Subtitles without a language are in the row's own. Raises BadInput.
    """
    own = language_of(row)
    return [
        (kind, _iso639_2(column, tag) or (own if kind == SUBTITLES else ""), reference)
        for column, kind in KINDS.items()
        for tag, reference in parse_tracks(column, row[column]).items()
    ]


def language_of(row: Mapping[str, Any]) -> str:
    """The language of a row's own sound, as ISO 639-2; empty if unknown. Raises BadInput."""
    return _iso639_2("language", row["language"] or "")


def _iso639_2(column: str, tag: str) -> str:
    try:
        return to_iso639_2(tag) if tag.strip() else ""
    except ValueError as error:
        remedy = "" if column == "language" else f" {_example(column)}"
        raise BadInput(f"{column}: {error}{remedy}") from error


def _parse_json(column: str, text: str) -> dict[str, str]:
    try:
        files = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{column} is not JSON ({error}). {_example(column)}") from error
    if not isinstance(files, dict) or not all(isinstance(name, str) and name.strip() for name in files.values()):
        raise BadInput(f"{column} is JSON, but no object of languages and files. {_example(column)}")
    for tag in files:
        _iso639_2(column, tag)
    return files


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two files with one name Python would keep the last and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return found


def _example(column: str) -> str:
    name = f"anna.{'srt' if KINDS[column] == SUBTITLES else 'wav'}"
    return f'Write `de={name}`, or {{"de": "{name}"}} if the name of the file holds commas or equals signs.'
