"""Files in any store: a local path, or any URI that fsspec knows (s3://, gs://, ...)."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from stableavatar.errors import BadInput, RowError, StorageError


def join(base: str, name: str) -> str:
    """`name` under the folder or URI `base`."""
    return f"{base.rstrip('/')}/{name}"


def absolute(uri: str) -> str:
    """A local path from the root, so that it means the same to every process; a URI without a trailing slash."""
    path = local_path(uri)
    return os.path.abspath(path) if path else uri.rstrip("/")


def open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system that serves `uri`, and the path there. Raises BadInput for a scheme that nothing here serves."""
    with _clear_errors(uri):
        store, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return store, path


def read(uri: str) -> bytes:
    """The content of one file. Raises BadInput if it is missing, StorageError if the store refuses."""
    store, path = open_store(uri)
    with _clear_errors(uri):
        return store.cat_file(path)


def fetch(uri: str, path: str) -> None:
    """Copy the file at `uri` to the local `path`. Raises BadInput if it is missing, StorageError if refused."""
    store, remote_path = open_store(uri)
    with _clear_errors(uri):
        if store.isdir(remote_path):
            raise BadInput(f"{uri} is a folder. Name one file.")
        store.get_file(remote_path, path)


@contextmanager
def fetched(uri: str) -> Iterator[str]:
    """A local path with the content of `uri`: the file itself if it is local, else a copy that is removed at the end.

    Raises what `fetch` raises. A RowError from inside that names the local path names `uri` instead.
    """
    with tempfile.TemporaryDirectory(prefix="stableavatar-") as folder:
        path = local_path(uri)
        if path is None:
            path = os.path.join(folder, "file" + os.path.splitext(urlsplit(uri).path)[1])
            fetch(uri, path)
        elif not os.path.isfile(path):
            fetch(uri, path)  # explains what is wrong
        try:
            yield path
        except RowError as error:
            raise type(error)(str(error).replace(path, uri)) from error


def local_path(uri: str) -> str | None:
    """The path of a file on this machine, None if `uri` lies in another store."""
    store, path = open_store(uri)
    return path if isinstance(store, LocalFileSystem) else None


def sha256_of(path: str) -> str:
    """Hash of a file's content, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(path: str, uri: str) -> None:
    """Copy the local file to `uri`. It appears there whole or not at all."""
    store, remote_path = open_store(uri)
    with _clear_errors(uri):
        if isinstance(store, LocalFileSystem):
            with _appearing_at(remote_path) as beside:
                shutil.copyfile(path, beside)
        else:
            store.put_file(path, remote_path)


def write(data: bytes, uri: str) -> None:
    """Write `data` to `uri`. It appears there whole or not at all."""
    store, path = open_store(uri)
    with _clear_errors(uri):
        if isinstance(store, LocalFileSystem):
            with _appearing_at(path) as beside:
                Path(beside).write_bytes(data)
        else:
            store.pipe_file(path, data)


def remove(uri: str) -> None:
    """Remove one file. One that is not there is fine."""
    store, path = open_store(uri)
    with _clear_errors(uri):
        if store.exists(path):
            store.rm_file(path)


def exists(uri: str) -> bool:
    """Is there such a file or folder?"""
    store, path = open_store(uri)
    with _clear_errors(uri):
        return store.exists(path)


def size(uri: str) -> int | None:
    """Bytes of a file, None if the store does not say. Raises BadInput if nothing is there."""
    store, path = open_store(uri)
    with _clear_errors(uri):
        return store.info(path)["size"]


def is_folder(uri: str) -> bool:
    """Is `uri` a folder? Raises BadInput if nothing is there, StorageError if the store refuses."""
    store, path = open_store(uri)
    with _clear_errors(uri):
        return store.info(path)["type"] == "directory"


def names_in(folder: str) -> list[str]:
    """Names of the files directly in a folder, sorted; none if the folder does not exist."""
    store, path = open_store(folder)
    with _clear_errors(folder):
        try:
            entries = store.ls(path, detail=True)
        except FileNotFoundError:
            return []
    names = (os.path.basename(entry["name"]) for entry in entries if entry["type"] != "directory")
    return sorted(name for name in names if name)


def check_writable(folder: str) -> None:
    """Raises StorageError unless files can be written to and removed from `folder`."""
    probe = join(folder, f".writable-{uuid.uuid4().hex}")
    try:
        write(b"", probe)
        remove(probe)
    except RowError as error:
        reason = error.__cause__ or error
        raise StorageError(f"cannot write to {folder} ({reason}). Check that you may write there.") from error


@contextmanager
def _appearing_at(path: str) -> Iterator[str]:
    """A path beside `path` to write to; the file moves to `path` in one step when it is complete."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


@contextmanager
def _clear_errors(uri: str) -> Iterator[None]:
    """Turn the errors of a store into ours: what failed, and what to do about it."""
    try:
        yield
    except NoCredentialsError as error:
        raise StorageError(
            f"no credentials for {uri}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        ) from error
    except FileNotFoundError as error:
        raise BadInput(f"{uri} does not exist. Check the name, and the bucket if it has one.") from error
    except PermissionError as error:
        raise StorageError(f"no permission for {uri} ({error}). Check the credentials and their rights.") from error
    except (ImportError, ValueError) as error:
        raise BadInput(
            f"{uri} cannot be opened ({error}). Use a local path or a URI such as s3://bucket/name."
        ) from error
    except (OSError, BotoCoreError, ClientError) as error:
        raise StorageError(
            f"{uri} cannot be reached ({type(error).__name__}: {error}). Check that the store answers, and run again."
        ) from error
