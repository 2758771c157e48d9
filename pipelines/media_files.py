"""What lies in folders of portraits and voices, and what the names of the files say."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from manifests.read import resolve
from pipelines import storage
from stableavatar.errors import BadInput
from stableavatar.languages import to_iso639_2

PORTRAITS = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".jp2")
VOICES = (
    *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".wma", ".aif", ".aiff", ".caf", ".amr"),
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mxf", ".m4v", ".mka", ".ac3"),
)
SUBTITLES = (".srt", ".vtt")  # of two with one name the first counts

# At the end of a longer name only two letters count: `take_new` is not in Newari.
_AT_THE_END = re.compile(r"[_. -]([A-Za-z]{2}(?:-[A-Za-z]{2}|_[A-Z]{2}|[-_]\d{3})?)$")
_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Z][a-z]{3})?([-_]([A-Za-z]{2}|\d{3}))?")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file. `words`: the names of the folders in which it lies, within the one that was given, and its own."""

    uri: str
    words: tuple[str, ...]

    @property
    def base(self) -> str:
        """The URI without the suffix: what the files beside it share."""
        return without_suffix(self.uri)


def find(references: Iterable[str], suffixes: Sequence[str], what: str) -> tuple[list[Found], set[str]]:
    """The files with these suffixes in folders, and files given one by one, each once; and the URIs of all around them.

    Raises BadInput: nothing there, or none `what` in a folder; StorageError if the store refuses.
    """
    found: dict[str, Found] = {}
    around: set[str] = set()
    for reference in references:
        uri = storage.absolute(reference)
        if storage.is_folder(uri):
            names = [name for name in storage.names_under(uri) if not is_hidden(name)]
            folder, mine = uri, [name for name in names if name.lower().endswith(tuple(suffixes))]
            if not mine:
                raise BadInput(f"{uri} holds no {what}. Their names end in one of {', '.join(suffixes)}.")
        else:
            folder, _, name = uri.rpartition("/")
            mine = [name]  # the web lists no folders
            names = mine if uri.startswith(("http://", "https://")) else storage.names_in(folder or "/")
        around |= {storage.join(folder, name) for name in names}
        files = (Found(uri=storage.join(folder, name), words=_words(name)) for name in mine)
        found |= {file.uri: file for file in files if file.uri not in found}
    return list(found.values()), around


def subtitles_beside(around: Iterable[str]) -> dict[str, dict[str, str]]:
    """Subtitles by the `base` of the voice they belong to, then by language: `de.srt` is in that of the voice itself
    (""), and `de.en.srt` in English.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for uri in sorted(around, key=lambda uri: (without_suffix(uri), uri)):
        if not uri.lower().endswith(SUBTITLES):
            continue
        base = without_suffix(uri)
        found[base].setdefault("", uri)
        stem, _, tag = base.rpartition(".")
        if _is_language(tag):
            found[stem].setdefault(tag, uri)
    return found


def language_in(words: Sequence[str], people: Collection[str] = ()) -> str:
    """The language that the name of a file tells (`de`, `speech_de`, `anna-pt-BR`), or else its folder; or "".

    The names of `people` tell none: Ben speaks no Bengali. Three letters are often a word or a name (`new`, `kim`), so
    they count after all that have two, and the file's own after its folders'.
    """
    own, *folders = reversed(words)
    at_the_end = _AT_THE_END.search(own)
    tags = (own, at_the_end[1] if at_the_end else "", *folders)
    short = [tag for tag in tags if len(re.split("[-_]", tag)[0]) == 2]
    candidates = [*short, *folders, own]
    return next((tag.replace("_", "-") for tag in candidates if tag not in people and _is_language(tag)), "")


def as_named(uri: str, manifest: str) -> str:
    """How a manifest names a file: from where it lies itself, if both lie in one store. Both are `storage.absolute`."""
    if "://" not in uri + manifest:
        relative = os.path.relpath(uri, os.path.dirname(manifest))
        # Symbolic links on the way may lead elsewhere.
        found = os.path.realpath(os.path.join(os.path.dirname(manifest), relative))
        return relative if found == os.path.realpath(uri) else uri
    root, manifest_root = ("/".join(text.split("/")[:3]) for text in (uri, manifest))
    if "://" not in uri or root != manifest_root:
        return uri
    relative = os.path.relpath(uri[len(root) :], os.path.dirname(manifest[len(root) :]))
    return relative if resolve(relative, manifest) == uri else uri


def without_suffix(uri: str) -> str:
    """All of `uri` but the last suffix of the file's name."""
    return uri[: len(uri) - len(PurePosixPath(uri).suffix)]


def _words(name: str) -> tuple[str, ...]:
    return tuple(without_suffix(name).split("/"))


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, is meant not to be seen."""
    return any(part.startswith(".") for part in name.split("/"))


def _is_language(tag: str) -> bool:
    try:
        return bool(_TAG.fullmatch(tag) and to_iso639_2(tag))
    except ValueError:
        return False
