"""A manifest from folders of portraits and voices, or from a table of languages: finds the files, writes the rows."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from manifests.build import WRITTEN, Cast, Cells, Portrait, Voice, build_rows, cast, pattern_of_ids, to_bytes
from manifests.cells import BadCell, convert
from manifests.formats import read_records
from manifests.read import parse_manifest, resolve
from manifests.schema import MANIFEST, ManifestError
from pipelines import storage
from pipelines.exclusive import create
from pipelines.media_files import (
    PORTRAITS,
    SUBTITLES,
    VOICES,
    as_named,
    find,
    is_hidden,
    language_in,
    subtitles_beside,
    without_suffix,
)
from stableavatar.errors import BadInput
from stableavatar.languages import to_iso639_2
from stableavatar.tracks import KINDS, parse_tracks

COLUMNS = {column.name: column for column in MANIFEST}
# What options say, or what names files that are looked for elsewhere.
NOT_IN_LANGUAGES = frozenset({"portrait", "id", "video_name", "lora", "base_video", "segments"})
NOT_IN_PROMPTS = (NOT_IN_LANGUAGES - {"portrait"}) | {"audio", "subtitles", "audio_tracks"}


@dataclass(frozen=True, kw_only=True)
class Built:
    """A manifest that was written. `left_out`: what was given and is in no row."""

    uri: str
    num_rows: int
    num_portraits: int
    num_voices: int
    is_by_name: bool
    left_out: list[str]


def build_manifest(
    out: str,
    *,
    portraits: Iterable[str],
    voices: Iterable[str] = (),
    languages: str | None = None,
    prompts: str | None = None,
    id: str = "",
    video_name: str = "",
    common: Mapping[str, Any] = {},
    force: bool = False,
) -> Built:
    """Write a manifest in which every portrait speaks with every voice, or each with its own: see `manifests.build`.

    Args:
        out: the manifest, .jsonl, .csv or .parquet.
        portraits: files and folders.
        voices: files and folders; or else
        languages: a table with the columns language, audio, and any others.
        prompts: a table with the columns portrait, prompt, and any others.
        id: pattern of the ids; without one it is that of `pattern_of_ids`.
        video_name: pattern of the names of the videos.
        common: cells of all rows.
        force: write over what is there.

    Raises BadInput, ManifestError, StorageError; then nothing is written.
    """
    out = storage.absolute(out)
    suffix = next((suffix for suffix in WRITTEN if out.lower().endswith(suffix)), None)
    if suffix is None:
        raise BadInput(f"{out}: unknown kind of manifest. Name it {', '.join(WRITTEN)}.")
    if not force and storage.exists(out):
        raise _is_there(out)
    people, unknown = _portraits(portraits, out, prompts)
    voices, names = list(voices), {portrait.name for portrait in people}
    sounds = list(_from_table(languages, out) if languages else _voices(voices, out, names))
    found = cast(people, sounds)
    rows = build_rows(found.pairs, id=id or pattern_of_ids(found, common), video_name=video_name, common=common)
    data = to_bytes(rows, suffix)
    _check(data, out)
    if force:
        storage.write(data, out)
    elif not create(data, out):
        raise _is_there(out)
    unused = [] if languages else _unused_subtitles(voices, found, out)
    return _built(out, found, [*unknown, *unused])


def _built(out: str, found: Cast, others: list[str]) -> Built:
    return Built(
        uri=out,
        num_rows=len(found.pairs),
        num_portraits=len({portrait.reference for portrait, _ in found.pairs}),
        num_voices=len({voice.reference for _, voice in found.pairs}),
        is_by_name=found.is_by_name,
        left_out=[*found.left_out, *others],
    )


def _is_there(out: str) -> BadInput:
    return BadInput(f"{out} is there already. Choose another name, or --force to write over it.")


def _check(data: bytes, out: str) -> None:
    """What is written must be read as it is meant: values out of range, for example, are found now."""
    for row in parse_manifest(data, out):
        if row["status"] == "failed":
            raise ManifestError(f"{row['error']}. Nothing was written")


def _portraits(references: Iterable[str], out: str, prompts: str | None) -> tuple[list[Portrait], list[str]]:
    """The portraits, and the names in the table of prompts that none of them has."""
    files, around = find(references, PORTRAITS, "portraits")
    given = _table(prompts, ("portrait",), NOT_IN_PROMPTS) if prompts else ()
    table = {cells.pop("portrait"): cells for _, cells in given}
    found = []
    for file in files:
        note = f"{file.base}.txt"
        cells = {"prompt": _text(note)} if note in around else {}
        cells = {name: cell for name, cell in {**cells, **table.get(file.words[-1], {})}.items() if cell is not None}
        found.append(Portrait(name=file.words[-1], reference=as_named(file.uri, out), cells=cells))
    unknown = table.keys() - {portrait.name for portrait in found}
    return found, [f"`{name}` of {prompts}" for name in sorted(unknown)]


def _text(uri: str) -> str | None:
    try:
        return " ".join(storage.read(uri).decode("utf-8-sig").split()) or None
    except UnicodeError as error:
        raise BadInput(f"{uri} is not UTF-8 text ({error}). Save the prompt as UTF-8.") from error


def _voices(references: Iterable[str], out: str, people: Collection[str]) -> Iterator[Voice]:
    files, around = find(references, VOICES, "voices")
    subtitles = subtitles_beside(around)
    for file in files:
        named = _moved(lambda uri: as_named(uri, out), subtitles.get(file.base, {}))
        yield Voice(
            name=file.words[-1],
            reference=as_named(file.uri, out),
            words=file.words,
            language=language_in(file.words, people),
            cells={"subtitles": _shortest(named)} if named else {},
        )


def _unused_subtitles(references: Iterable[str], found: Cast, out: str) -> list[str]:
    """Subtitles in the folders of voices that no row has. What lies beside a voice given alone was not given."""
    folders = [storage.absolute(reference).rstrip("/") for reference in references]
    given = {
        as_named(storage.join(folder, name), out)
        for folder in folders
        if storage.is_folder(folder)
        for name in storage.names_under(folder)
        if name.lower().endswith(SUBTITLES) and not is_hidden(name)
    }
    used = {name for _, voice in found.pairs for name in _names(voice.cells.get("subtitles"))}
    return sorted(given - used)


def _names(cell: str | dict[str, str] | None) -> Collection[str]:
    return cell.values() if isinstance(cell, dict) else [cell or ""]


def _from_table(uri: str, out: str) -> Iterator[Voice]:
    """The voices of a table of languages. Its files are named from where the table lies."""
    uri = storage.absolute(uri)

    def moved(name: str) -> str:
        return as_named(resolve(name, uri), out)

    for where, cells in _table(uri, ("language", "audio"), NOT_IN_LANGUAGES):
        try:
            to_iso639_2(cells["language"])
            tracks = {column: parse_tracks(column, cells.get(column)) for column in KINDS}
        except (ValueError, BadInput) as error:
            raise ManifestError(f"{where}: {error}") from error
        audio = cells.pop("audio")
        cells |= {column: _shortest(_moved(moved, files)) for column, files in tracks.items() if files}
        yield Voice(name=without_suffix(audio.rpartition("/")[2]), reference=moved(audio), cells=cells)


def _shortest(files: dict[str, str]) -> str | dict[str, str]:
    """A cell of tracks as people write it: a single file in the row's own language just by its name."""
    name = files.get("", "")
    return name if len(files) == 1 and name and not set(name) & set(",={[") else files


def _moved(rename: Callable[[str], str], files: Mapping[str, str]) -> dict[str, str]:
    return {tag: rename(name) for tag, name in files.items()}


def _table(uri: str, required: tuple[str, ...], not_there: frozenset[str]) -> Iterator[tuple[str, Cells]]:
    """Where each row of a table stands, and its cells, typed like those of a manifest; empty ones are left out."""
    uri = storage.absolute(uri)
    for number, record in enumerate(read_records(storage.read(uri), uri), start=1):
        where = f"row {number} of {uri}"
        if record.problem:
            raise ManifestError(f"{where}: {record.problem}")
        if refused := not_there & record.cells.keys():
            raise ManifestError(f"{where}: this table cannot give `{min(refused)}`; take the column out")
        cells = {name: _cell(name, cell, where) for name, cell in record.cells.items() if name}
        cells = {name: cell for name, cell in cells.items() if cell is not None}
        missing = [name for name in required if name not in cells]
        if missing:
            raise ManifestError(f"{where}: `{missing[0]}` is missing; fill it in. Columns: {', '.join(required)}, ...")
        yield where, cells


def _cell(name: str, cell: Any, where: str) -> Any:
    try:
        cell = convert(COLUMNS[name], cell) if name in COLUMNS else cell
    except BadCell as error:
        raise ManifestError(f"{where}: {error}") from error
    return (cell.strip() or None) if isinstance(cell, str) else cell
