"""Writing a file that is not there yet: of all that try at once, in any process on any machine, one succeeds."""

import errno
import os
import uuid
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipelines import storage
from pipelines.retries import says_exists, steadily


def create(data: bytes, uri: str) -> bool:
    """Write `data` to `uri` unless something is there: of all that try at once, one gets True.

    Only on S3 and local disks is it sure that one that wrote, but never heard of it, gets True as well.
    """
    store, path = storage.open_store(uri)
    writer = uuid.uuid4().hex

    def put() -> bool:
        try:
            _put_new(store, path, data, writer)
        except Exception as error:
            if not says_exists(error):
                raise
            # Some client below may have sent this twice, of which nobody tells.
            return "s3" in store.protocol and _writer_of(store, path) == writer
        return True

    return steadily(uri, put)


def _put_new(store: AbstractFileSystem, path: str, data: bytes, writer: str) -> None:
    """Raises an error that `says_exists`."""
    if isinstance(store, LocalFileSystem):
        _link_new(path, data)
        return
    signed = {"Metadata": {"writer": writer}} if "s3" in store.protocol else {}
    try:
        store.pipe_file(path, data, mode="create", **signed)
    except (NotImplementedError, TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOSYS:
            raise
        if store.exists(path):  # a store that knows no such mode: nearly as good
            raise FileExistsError(path) from None
        store.pipe_file(path, data)


def _writer_of(store: AbstractFileSystem, path: str) -> str | None:
    try:
        return store.metadata(path).get("writer")
    except FileNotFoundError:  # removed meanwhile
        return None


def _link_new(path: str, data: bytes) -> None:
    with storage.written_beside(path) as beside:
        Path(beside).write_bytes(data)
        try:
            os.link(beside, path)
        except FileExistsError:
            if not os.path.samefile(beside, path):  # a network disk may have lost its first answer
                raise
        except OSError:  # a disk without links
            with open(path, "xb") as file:
                file.write(data)
