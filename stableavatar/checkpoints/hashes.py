"""Hashes of the files of a folder, remembered: a file is read once, and again only if its size or time changed."""

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from stableavatar.checkpoints.layout import VARIANTS, Layout
from stableavatar.checkpoints.tensorfile import metadata_of
from stableavatar.errors import WeightsError

SOURCE = "source_sha256"  # in the metadata of a converted file: the hash of the file it was made from
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HashBook:
    """The sha256 of the files of one folder.

    They are remembered in the folder, or in the user's cache if the folder is read-only. Without either, every file
    is read each time.
    """

    folder: Path

    def sha256(self, path: Path) -> str:
        """Hash of one file, `path` relative to the folder.

        Raises:
            WeightsError: the file cannot be read.
        """
        try:
            status = (self.folder / path).stat()
            key, stamp = path.as_posix(), [status.st_size, status.st_mtime_ns]
            known = self._read().get(key)
            if known and known[:2] == stamp:
                return known[2]
            with open(self.folder / path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise WeightsError(f"{self.folder / path} cannot be read: {error.strerror}. Fetch it again.") from error
        self._write(key, [*stamp, digest])
        return digest

    def _places(self) -> tuple[Path, Path]:
        """Beside huggingface_hub's own notes; or the user's cache, by the folder's place."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
        return self.folder / ".cache/stableavatar/sha256.json", cache / "stableavatar" / f"sha256-{place}.json"

    def _read(self) -> dict[str, list]:
        notes: dict[str, list] = {}
        for place in self._places():
            try:
                notes |= json.loads(place.read_text())
            except (OSError, ValueError, TypeError):
                continue  # not there, or cut short: only a cache
        return notes

    def _write(self, key: str, entry: list) -> None:
        notes = {**self._read(), key: entry}
        for place in self._places():
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                unfinished = place.with_name(f"{place.name}.{os.getpid()}")
                unfinished.write_text(json.dumps(notes, indent=1, sort_keys=True))
                os.replace(unfinished, place)
                return
            except OSError:
                continue
        _log.warning("the hashes of %s cannot be remembered: it and the user's cache are read-only", self.folder)


def published_hash(book: HashBook, path: Path) -> str:
    """Hash of a file as it was published: of a converted file, that of its source."""
    if path.suffix == ".safetensors" and (source := metadata_of(book.folder / path).get(SOURCE)):
        return source
    return book.sha256(path)


def hash_files(layout: Layout, variant: str, without: Collection[str] = ()) -> dict[str, str]:
    """Hash of every file that has a say in the pictures, by its part in the model.

    `without`: parts whose weights come from elsewhere; their files need not be there.

    Raises:
        WeightsError: one of them is missing.
    """
    book = HashBook(layout.folder)
    wanted = [(name, path) for part, name, path in _files(layout, variant) if part not in without]
    hashes = {name: published_hash(book, path) for name, path in wanted}
    return hashes | {path.name: book.sha256(path) for path in layout.tokenizer_files()}


def hash_encoders(layout: Layout) -> dict[str, str]:
    """The same without the transformer."""
    return hash_files(layout, VARIANTS[0], without=("transformer",))  # which of its weights does not matter then


def _files(layout: Layout, variant: str) -> Iterable[tuple[str, str, Path]]:
    """Parts, names and files of all networks."""
    yield from ((part, part, layout.tensors(part, variant)) for part in ("transformer", "vae", "text", "image"))
    yield "audio", "audio", layout.audio_weights()
    yield "audio", "audio config", layout.audio / "config.json"
