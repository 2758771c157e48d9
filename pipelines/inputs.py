"""Which files a row may name: from allowed stores and folders, and nothing that is no file."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from manifests.read import resolve
from pipelines import cache, storage
from pipelines.stage import Row
from stableavatar.audio.span import Span
from stableavatar.errors import BadInput
from stableavatar.limits import Limits

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def locate(reference: str, manifest: str, limits: Limits) -> str:
    """The path or URI of a file that a row names, if the limits allow it. Nothing is opened, no store is asked.

    Raises BadInput: a scheme that is not allowed, a chain of stores, outside of the allowed folders.
    """
    uri = resolve(reference, manifest)
    _check_form(uri, limits)
    path = storage.local_path(uri)
    if path is None:
        _check_prefix(uri, uri, [prefix.rstrip("/") for prefix in limits.inputs], limits)
        return uri
    real = os.path.realpath(path)  # symbolic links and .. are gone
    local = [os.path.realpath(found) for prefix in limits.inputs if (found := storage.local_path(prefix))]
    _check_prefix(uri, real, local, limits)
    return real if limits.inputs else uri


def span_of(row: Row) -> Span:
    """The part of its sound that a row uses."""
    return Span(
        start_s=row["start_s"] or 0.0,
        end_s=row["end_s"],
        stream=row["audio_stream"] or "",
        pad_before_s=row["pad_before_s"] or 0.0,
        pad_after_s=row["pad_after_s"] or 0.0,
    )


@contextmanager
def fetched(uri: str, limits: Limits) -> Iterator[str]:
    """A local path with the content of `uri`, as `cache.fetched` gives it, of a regular file that is not too large.

    Raises BadInput, also if the file is missing; StorageError if the store refuses.
    """
    path = storage.local_path(uri)
    if path is not None and os.path.exists(path):
        _check_regular(uri, path)
    with cache.fetched(uri, max_bytes=limits.max_file_bytes) as path:
        yield path


def check_unchanged(path: str, uri: str, sha256: str) -> None:
    """Raises BadInput if the file is not the one that was checked: the row's identity would be wrong."""
    if cache.sha256_of(path) != sha256:
        raise BadInput(f"{uri} has changed since it was checked. Run again.")


def _check_form(uri: str, limits: Limits) -> None:
    scheme, separator, rest = uri.partition("://")
    if "::" in uri:
        raise BadInput(f"{uri} joins several stores with `::`. Name the file itself; rename it if that is its name.")
    if separator and scheme not in limits.input_schemes:
        allowed = ", ".join(limits.input_schemes)
        raise BadInput(
            f"{uri} cannot be opened: rows may not name {scheme}:// files. Allowed: {allowed}; "
            "--input-schemes allows others."
        )
    if not separator and "file" not in limits.input_schemes:
        raise BadInput(f"{uri} is a local file, which rows may not name. Allowed: {', '.join(limits.input_schemes)}.")
    if separator and scheme != "file" and ".." in re.split(r"[/\\?#]", _decoded(rest)):
        raise BadInput(f"{uri} holds `..`, which stores read differently. Write the path without it.")


def _decoded(text: str) -> str:
    """`text` without percent signs, however often it was encoded."""
    while (plain := unquote(text)) != text:
        text = plain
    return text


def _check_prefix(uri: str, real: str, prefixes: list[str], limits: Limits) -> None:
    if limits.inputs and not any(f"{real}/".startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes):
        raise BadInput(
            f"{uri} lies outside of the folders that rows may name files in: {', '.join(limits.inputs)}. "
            "Move it there, or add its folder with --inputs."
        )


def _check_regular(uri: str, path: str) -> None:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise BadInput(f"{uri} is {kind}. Name one file.")
