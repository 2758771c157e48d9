"""Hashes of the files of a folder, remembered: a file is read once, and again only if its size or time changed."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
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


def hash_files(layout: Layout, variant: str) -> dict[str, str]:
    """Hash of every file that has a say in the pictures, by its part in the model.

    Raises:
        WeightsError: one of them is missing.
    """
    transformer = published_hash(HashBook(layout.folder), layout.tensors("transformer", variant))
    return {"transformer": transformer} | hash_encoders(layout)


def hash_encoders(layout: Layout) -> dict[str, str]:
    """The same without the transformer, which need not be there."""
    book = HashBook(layout.folder)
    hashes = {part: published_hash(book, path) for part, path in _encoders(layout)}
    return hashes | {path.name: book.sha256(path) for path in layout.tokenizer_files()}


def _encoders(layout: Layout) -> Iterable[tuple[str, Path]]:
    yield from ((part, layout.tensors(part, VARIANTS[0])) for part in ("vae", "text", "image"))  # the same for all
    yield "audio", layout.audio_weights()
    yield "audio config", layout.audio / "config.json"
