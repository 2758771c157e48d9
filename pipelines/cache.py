"""Files that a machine fetches or computes once for each version, however many rows and processes use them.

An entry is a file `<key>.<suffix>` in the scratch's cache, and beside it `<the same>.lock`: whoever uses the entry
holds a shared lock on that, and its time of change tells when the entry was last used.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from manifests.redact import redacted
from pipelines import scratch, storage
from pipelines.storage import FileInfo
from stableavatar.errors import BadInput, RowError, StorageError

VARIABLE = "STABLEAVATAR_CACHE_GB"
DEFAULT_GB = 20.0
SETTLED_S = 2.0  # a file changed later than this before it was hashed may change again within the same tick of its disk


@contextmanager
def fetched(uri: str, *, keep: bool = True, max_bytes: float | None = None) -> Iterator[str]:
    """A local path with the content of `uri`: the file itself if it is local, else a copy. To be read only.

    With `keep` the copy stays in this machine's cache, unless the store does not tell one version from another; what is
    needed only once should not drive others out. A RowError from inside that names the local path names `uri` instead.

    Raises BadInput if the file is missing, no file, or larger than `max_bytes`, StorageError if the store refuses.
    """
    path = storage.local_path(uri)
    with _local(uri, path, max_bytes) if path is not None else _copied(uri, keep, max_bytes) as path:
        try:
            yield path
        except RowError as error:
            raise type(error)(str(error).replace(path, redacted(uri))) from error


def sha256_of(path: str) -> str:
    """Hash of a file's content, 64 hex digits. It is read once for each machine, as long as it does not change."""
    found = os.stat(path)
    if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED_S:
        return _read_sha256(path)
    version = (path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    key = hashlib.sha256(repr(version).encode(errors="surrogatepass")).hexdigest()[:32]
    known = Path(scratch.place("hashes"), key)
    if not known.exists():
        with scratch.folder() as folder:
            new = Path(folder, key)
            new.write_text(_read_sha256(path))
            os.replace(new, known)
    return known.read_text()


def _read_sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _local(uri: str, path: str, max_bytes: float | None) -> Iterator[str]:
    if not os.path.isfile(path):
        storage.info(uri)  # raises if it is missing or a folder
        raise BadInput(f"{uri} is no regular file. Name one.")
    storage.refuse_large(uri, os.path.getsize(path), max_bytes)
    yield path


@contextmanager
def _copied(uri: str, keep: bool, max_bytes: float | None) -> Iterator[str]:
    info = storage.info(uri)
    storage.refuse_large(uri, info.size, max_bytes)
    suffix = os.path.splitext(urlsplit(uri).path)[1]
    suffix = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,10}", suffix) else ""
    if keep and info.version is not None and info.size is not None and info.size <= limit_bytes():
        key = hashlib.sha256(f"{uri}\n{info.version}".encode(errors="surrogatepass")).hexdigest()[:32]
        known = FileInfo(size=info.size, version=None)
        with made(key + suffix, lambda path: _fetch(uri, path, known, max_bytes)) as path:
            yield path
        return
    with scratch.folder() as folder:
        path = os.path.join(folder, "file" + suffix)
        _fetch(uri, path, info, max_bytes)
        yield path


def limit_bytes() -> float:
    """How much the cache may hold."""
    try:
        return float(os.environ.get(VARIABLE, DEFAULT_GB)) * 1e9
    except ValueError as error:
        raise StorageError(f"{VARIABLE} is not a number of gigabytes ({error}).") from error


@contextmanager
def made(name: str, make: Callable[[str], None]) -> Iterator[str]:
    """The entry of that name, held until the end; if it is not there, `make(path)` writes it, in one process at a time.

    The name must say everything that the content depends on. What `make` raises is raised.
    """
    path = os.path.join(scratch.place("cache"), name)
    while True:
        with scratch.locked(f"{path}.lock", shared=True):
            if os.path.exists(path):
                os.utime(f"{path}.lock")
                yield path
                return
        with scratch.locked(f"{path}.fetch"):  # one process makes it, the others wait
            if not os.path.exists(path):
                with scratch.folder() as folder:
                    make(f"{folder}/file")
                    _make_room(os.path.getsize(f"{folder}/file"))
                    os.replace(f"{folder}/file", path)
            os.unlink(f"{path}.fetch")


def discard(name: str) -> None:
    """Remove the entry of that name, when nobody uses it any more: the next one who wants it makes it again."""
    path = os.path.join(scratch.place("cache"), name)
    with scratch.locked(f"{path}.lock"), suppress(FileNotFoundError):
        os.unlink(path)


def require_space(num_bytes: float) -> None:
    """Raises StorageError if so much does not fit on the scratch disk, not even without entries that nobody uses."""
    if shutil.disk_usage(scratch.root()).free < num_bytes:
        _make_room(num_bytes)
    scratch.require_space(num_bytes)


def _fetch(uri: str, path: str, info: FileInfo, max_bytes: float | None) -> None:
    require_space(info.size or 0)
    storage.fetch(uri, path, max_bytes=max_bytes)


def _make_room(num_bytes: float) -> None:
    """Remove what was not used for longest until there is room for so much more. Entries in use stay, come what may."""
    cache = scratch.place("cache")
    with scratch.locked(os.path.join(scratch.root(), "cache.lock")):
        names = {name.removesuffix(".lock") for name in os.listdir(cache) if not name.endswith(".fetch")}
        paths = sorted((os.path.join(cache, name) for name in names), key=_last_used)
        sizes = {path: os.path.getsize(path) if os.path.exists(path) else 0 for path in paths}
        held = sum(sizes.values())
        for path, size in sizes.items():
            is_room = shutil.disk_usage(cache).free >= num_bytes
            if held + num_bytes <= limit_bytes() and is_room:
                return
            held -= size if _evict(path) else 0


def _last_used(path: str) -> float:
    lock = f"{path}.lock"
    return os.stat(lock).st_mtime if os.path.exists(lock) else 0.0


def _evict(path: str) -> bool:
    """Remove an entry and its lock, unless someone uses it."""
    with scratch.tried_lock(f"{path}.lock") as is_mine:
        if is_mine:
            for name in (path, f"{path}.lock"):
                if os.path.exists(name):
                    os.unlink(name)
        return is_mine
