"""Files in any store: a local path, or any URI that fsspec knows (s3://, gs://, ...).

What fails in passing is tried again (see retries); every function here may raise NetworkError when that did not help.
"""

import mimetypes
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

from manifests.redact import redacted
from pipelines import traffic
from pipelines.retries import clear_errors, is_transient, steadily
from stableavatar.errors import BadInput, NetworkError, RowError, StorageError

# Requests are repeated one by one (an upload in parts has hundreds of them) a few times, with pauses of random length;
# above that, `steadily` repeats whole operations. The layer between them is switched off in `open_store`.
S3: dict[str, Any] = {
    "config_kwargs": {
        "retries": {"mode": "standard", "total_max_attempts": 3},
        "connect_timeout": 10,  # seconds
        "read_timeout": 30,
    },
    "max_concurrency": 4,  # parts of 50 MB that are held at once
}


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """What a store tells about a file: its size in bytes, and a text that changes with its content; None if unknown."""

    size: int | None
    version: str | None


def join(base: str, name: str) -> str:
    """`name` under the folder or URI `base`."""
    return f"{base.rstrip('/')}/{name}"


def absolute(uri: str) -> str:
    """A local path from the root, so that it means the same to every process; a URI without a trailing slash."""
    path = local_path(uri)
    return os.path.abspath(path) if path else uri.rstrip("/")


def open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system that serves `uri`, and the path there. Raises BadInput for a scheme that nothing here serves."""
    scheme = uri.partition("://")[0]
    options: dict[str, Any] = S3 if scheme in ("s3", "s3a") else {}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout  # takes long, and most runs need no such store

        options = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=10, sock_read=60)}}  # seconds
    with clear_errors(uri):
        store, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
    if options is S3:
        store.retries = 1
    return store, path


def read(uri: str) -> bytes:
    """The content of one file. Raises BadInput if it is missing, StorageError if the store refuses."""
    store, path = open_store(uri)
    data = steadily(uri, lambda: _content(store, path))
    traffic.count(bytes_read=len(data))
    return data


def _content(store: AbstractFileSystem, path: str) -> bytes:
    # Otherwise s3fs asks for the size first, and may then put together pieces of two versions of a file.
    return store.cat_file(path, max_concurrency=1) if "s3" in store.protocol else store.cat_file(path)


def read_if_there(uri: str) -> bytes | None:
    """The content of one file, None if it is missing."""
    try:
        return read(uri)
    except BadInput as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def info(uri: str) -> FileInfo:
    """What the store tells about a file, in one request. Raises BadInput if it is missing or a folder."""
    store, path = open_store(uri)
    found = steadily(uri, lambda: store.info(path))
    if found["type"] == "directory":
        raise BadInput(f"{uri} is a folder. Name one file.")
    marks = [found.get(name) for name in ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified")]
    marks += [found.get(name) for name in ("last_modified", "updated", "mtime", "ino")]
    known = [str(mark) for mark in marks if mark]
    return FileInfo(size=found["size"], version="|".join([*known, str(found["size"])]) if known else None)


def fetch(uri: str, path: str, *, max_bytes: float | None = None) -> None:
    """Copy the file at `uri` to the local `path`. It appears there whole or not at all.

    Raises BadInput if it is missing or longer than `max_bytes`, StorageError if refused.
    """
    store, remote_path = open_store(uri)

    def copy() -> None:
        with written_beside(path) as beside:
            store.get_file(remote_path, beside, callback=_Limit(uri, max_bytes))
            refuse_large(uri, os.path.getsize(beside), max_bytes)
            os.replace(beside, path)

    steadily(uri, copy)
    traffic.count(bytes_read=os.path.getsize(path))


class _Limit(Callback):
    """Ends a transfer that has become too long, whatever the store said about its size before."""

    def __init__(self, uri: str, max_bytes: float | None) -> None:
        super().__init__()
        self.uri = uri
        self.max_bytes = max_bytes

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        refuse_large(self.uri, self.value, self.max_bytes)


def refuse_large(uri: str, size: int | None, max_bytes: float | None) -> None:
    """Raises BadInput for a file that is larger than `max_bytes`; None: unknown, or no limit."""
    if size is not None and max_bytes is not None and size > max_bytes:
        raise BadInput(
            f"{uri} is too large: a file may have at most {max_bytes:,.0f} bytes. "
            "Give a smaller file, or raise --max-file-bytes."
        )


def local_path(uri: str) -> str | None:
    """The path of a file on this machine, None if `uri` lies in another store."""
    store, path = open_store(uri)
    return path if isinstance(store, LocalFileSystem) else None


def publish(path: str, uri: str) -> None:
    """Copy the local file to `uri`. It appears there whole or not at all."""
    store, remote_path = open_store(uri)

    def copy() -> None:
        if isinstance(store, LocalFileSystem):
            with _appearing_at(remote_path) as beside:
                shutil.copyfile(path, beside)
        else:
            store.put_file(path, remote_path)

    steadily(uri, copy)
    traffic.count(bytes_written=os.path.getsize(path))


def publish_folder(folder: str, uri: str, last: str = "") -> None:
    """Copy all files of a local folder to `uri`; the one named `last` comes when the others are there."""
    names = sorted(path.name for path in Path(folder).iterdir() if path.is_file())
    for name in sorted(names, key=lambda name: name == last):
        publish(f"{folder}/{name}", join(uri, name))


def copy(uri: str, new_uri: str) -> None:
    """Copy a file within one store. It appears whole or not at all."""
    store, path = open_store(uri)
    _, new_path = open_store(new_uri)
    if isinstance(store, LocalFileSystem):
        publish(path, new_uri)
    else:
        steadily(uri, lambda: store.copy(path, new_path))


def move(uri: str, new_uri: str) -> None:
    """Give a file another name within its store. It appears whole or not at all; the old name goes afterwards."""
    copy(uri, new_uri)
    remove(uri)


def write(data: bytes, uri: str) -> None:
    """Write `data` to `uri`. It appears there whole or not at all; on S3 with the type that its name says."""
    store, path = open_store(uri)
    kind, _ = mimetypes.guess_type(path)
    headers = {"ContentType": kind} if kind and "s3" in store.protocol else {}  # a browser saves what has no type

    def put() -> None:
        if isinstance(store, LocalFileSystem):
            with _appearing_at(path) as beside:
                Path(beside).write_bytes(data)
        else:
            store.pipe_file(path, data, **headers)

    steadily(uri, put)
    traffic.count(bytes_written=len(data))


def remove(uri: str) -> None:
    """Remove one file. One that is not there is fine."""
    store, path = open_store(uri)

    def rm() -> None:
        try:
            if store.exists(path):
                store.rm_file(path)
        except FileNotFoundError:  # gone meanwhile
            pass

    steadily(uri, rm)


def remove_folder(uri: str) -> None:
    """Remove a folder and all that is in it. One that is not there is fine. A whole bucket is refused (ValueError)."""
    store, path = open_store(uri)
    if "/" not in path.strip("/"):
        raise ValueError(f"{uri} is not a folder to be removed")

    def rm() -> None:
        try:
            store.rm(path, recursive=True)
            # S3 says nothing of files that it could not remove with the others; alone each gives its error.
            for left in store.find(path):
                store.rm_file(left)
        except FileNotFoundError:
            pass

    steadily(uri, rm)


def exists(uri: str) -> bool:
    """Is there such a file or folder?"""
    store, path = open_store(uri)
    return steadily(uri, lambda: store.exists(path))


def is_folder(uri: str) -> bool:
    """Is `uri` a folder? Raises BadInput if nothing is there, StorageError if the store refuses."""
    store, path = open_store(uri)
    return steadily(uri, lambda: store.info(path))["type"] == "directory"


def names_in(folder: str) -> list[str]:
    """Names of the files directly in a folder, sorted; none if the folder does not exist."""
    return [name for name, kind in _entries(folder) if kind != "directory"]


def names_under(folder: str) -> list[str]:
    """Names of the files in a folder and in the folders within, such as `de/anna.mp4`, sorted."""
    store, path = open_store(folder)
    root = path.rstrip("/") + "/"
    found = steadily(folder, lambda: store.find(path))  # none if the folder does not exist
    return sorted(name.removeprefix(root) for name in found if name.startswith(root) and not name.endswith("/"))


def folders_in(folder: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; none if the folder does not exist."""
    return [name for name, kind in _entries(folder) if kind == "directory"]


def _entries(folder: str) -> list[tuple[str, str]]:
    """(name, type) of all that is directly in a folder, sorted."""
    store, path = open_store(folder)

    def ls() -> list[dict[str, Any]]:
        try:
            return store.ls(path, detail=True)
        except FileNotFoundError as error:
            if is_transient(error):
                raise
            return []

    found = [(entry["name"].rstrip("/"), entry["type"]) for entry in steadily(folder, ls)]
    return sorted((os.path.basename(name), kind) for name, kind in found if name and name != path.rstrip("/"))


def check_writable(folder: str) -> None:
    """Raises StorageError unless files can be written to, read from and removed from `folder`."""
    content = uuid.uuid4().hex.encode()
    probe = join(folder, f".writable-{content.decode()}")
    try:
        write(content, probe)
        found = read(probe)
        remove(probe)
    except NetworkError:
        raise
    except RowError as error:
        raise StorageError(redacted(f"cannot write to {folder} ({error})")) from error
    if found != content:
        raise StorageError(f"{redacted(folder)} does not give back what is written there. Choose another place.")


def remove_parts(folder: str, *, older_than_s: float = 3600.0) -> None:
    """Remove what killed processes left half-written in a folder on this machine. Other stores keep no such parts."""
    path = local_path(folder)
    for part in Path(path).glob(".*.part") if path else ():
        with suppress(FileNotFoundError):  # finished meanwhile
            if time.time() - part.stat().st_mtime > older_than_s:
                part.unlink()


@contextmanager
def _appearing_at(path: str) -> Iterator[str]:
    """A path beside `path` to write to; the file moves to `path` in one step when it is complete."""
    with written_beside(path) as beside:
        yield beside
        _flush(beside)
        os.replace(beside, path)


@contextmanager
def written_beside(path: str) -> Iterator[str]:
    """A path beside `path` to write to, gone at the end if it is still there."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    beside = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.part")
    try:
        yield beside
    finally:
        Path(beside).unlink(missing_ok=True)


def _flush(path: str) -> None:
    """To the disk itself: a network disk says only now that it is full, and a power cut takes nothing any more."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
