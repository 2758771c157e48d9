"""Where clips lie: in folders of any store, or in tar files of many clips, as WebDataset has them.

A folder in a tar file is named as fsspec names it: `tar://speech/anna::/data/shard-000.tar`.
"""

import os
import posixpath
import shutil
import tarfile
import tempfile
import threading
import weakref

import fsspec

from stableavatar.errors import BadInput

FILM = "sub_clip.mp4"  # every clip has one
_IN_STORE = "simplecache::"  # a tar in another store is fetched whole: it is read in any order

NUM_OPEN = 8  # tar files
_kept = threading.local()


def join(folder: str, name: str) -> str:
    """A file or folder `name` in a folder."""
    inside, chain, outside = folder.partition("::")
    return f"{inside.rstrip('/')}/{name}{chain}{outside}"


def plain(place: str) -> str:
    """The one name of a folder or file that may be written in many ways: of a local one its path from the root."""
    if "::" in place:
        return place
    path = place.removeprefix("file://")
    return place.rstrip("/") if "://" in path else os.path.abspath(os.path.expanduser(path))


def name_of(folder: str) -> str:
    """The last part of a folder's name."""
    return posixpath.basename(_inside(folder))


def parent_name(folder: str) -> str:
    """The name of the folder that a folder lies in; empty at the top of a tar."""
    return posixpath.basename(posixpath.dirname(_inside(folder)))


def tar_files(root: str) -> list[str]:
    """The tar files that a root names: itself, or those in it."""
    if root.endswith(".tar"):
        return [root]
    files, path = fsspec.url_to_fs(root)
    try:
        names = sorted(posixpath.basename(name) for name in files.ls(path, detail=False) if name.endswith(".tar"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [join(root, name) for name in names]


def clips_in_tar(tar: str) -> list[str]:
    """The clip folders in a tar file.

    Raises:
        BadInput: it cannot be read as one.
    """
    where = tar if "://" not in tar else _IN_STORE + tar
    try:
        found: list[str] = open_store(f"tar://::{where}")[0].find("")
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        raise BadInput(f"{tar} cannot be read as a tar file: {error}") from error
    return [f"tar://{posixpath.dirname(name)}::{where}" for name in found if posixpath.basename(name) == FILM]


def open_store(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that a file or folder lies in, and its path there.

    A tar file is read through when it is opened. Each thread keeps the last few open, and of those that lie in a store
    a copy among the system's temporary files.
    """
    inside, chain, outside = place.partition("::")
    if not chain:
        return fsspec.url_to_fs(place)
    opened: dict[str, fsspec.AbstractFileSystem] = _kept.__dict__.setdefault("tars", {})
    files = opened.pop(outside, None) or _open_tar(outside)
    opened[outside] = files  # behind all others
    for oldest in list(opened)[:-NUM_OPEN]:
        del opened[oldest]
    return files, inside.removeprefix("tar://").rstrip("/")


def _open_tar(tar: str) -> fsspec.AbstractFileSystem:
    if not tar.startswith(_IN_STORE):
        return fsspec.url_to_fs(f"tar://::{tar}")[0]
    folder = tempfile.mkdtemp(prefix="stableavatar-tar-")
    options = {"cache_storage": folder, "skip_instance_cache": True}
    files = fsspec.url_to_fs(f"tar://::{tar}", simplecache=options)[0]
    weakref.finalize(files, shutil.rmtree, folder, ignore_errors=True)  # a data set may be larger than the disk
    return files


def _inside(folder: str) -> str:
    return folder.partition("::")[0].rpartition("://")[2].rstrip("/")
