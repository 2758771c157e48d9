"""Local disk as scratch only: nothing here is needed by another machine, and what a killed process left is removed.

`$STABLEAVATAR_SCRATCH` (or a folder of this user under the system's own for temporary files) holds

    work/<pid>-<random>/   one for each process that is alive: it holds a lock on the file `owner` inside
    outbox/                finished videos that wait for their upload
    cache/                 copies of files from other stores (see cache)
    hashes/                of files that were read, by path and version (see cache)
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from stableavatar.errors import StorageError

VARIABLE = "STABLEAVATAR_SCRATCH"
KEEP_S = 7 * 24 * 3600.0
MINE = 0o700  # read by nobody else

_lock = threading.Lock()
_owned: dict[tuple[int, str], str] = {}  # (pid, root) -> work folder of this process. A forked child makes its own
_owner_files: list[int] = []  # open as long as the process lives: that holds the locks


def root() -> str:
    """The folder of everything here, made if missing. Raises StorageError if it cannot be used."""
    chosen = os.environ.get(VARIABLE)
    path = chosen or os.path.join(tempfile.gettempdir(), f"stableavatar-{os.getuid()}")
    try:
        os.makedirs(path, mode=MINE, exist_ok=True)
        found = os.stat(path) if chosen else os.lstat(path)
    except OSError as error:
        raise StorageError(f"no scratch folder at {path} ({error}). Set {VARIABLE} to one that can be used.") from error
    # A folder whose name all users know may have been made by another one.
    if not chosen and not (stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077):
        raise StorageError(f"{path} is not a folder of this user alone. Remove it, or set {VARIABLE} to another one.")
    return os.path.abspath(path)


def place(name: str) -> str:
    """The folder `name` directly under the root, made if missing."""
    path = os.path.join(root(), name)
    os.makedirs(path, mode=MINE, exist_ok=True)
    return path


@contextmanager
def folder() -> Iterator[str]:
    """A new, empty folder on the local disk, removed at the end; if this process is killed, by the next one."""
    path = tempfile.mkdtemp(dir=_own_folder())
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def outbox(name: str) -> str:
    """Where a finished file waits for its upload; it survives this process.

    Write it elsewhere in the scratch (`folder`) and move it here (`os.replace`): what has this name is complete.
    """
    if os.path.basename(name) != name or not name.strip("."):
        raise ValueError(f"{name!r} is not the name of a file")
    return os.path.join(place("outbox"), name)


def require_space(num_bytes: float) -> None:
    """Raises StorageError if so much does not fit on the scratch disk."""
    path = root()
    free = shutil.disk_usage(path).free
    if free < num_bytes:
        raise StorageError(
            f"{path} has {free / 1e9:.1f} GB free, and {num_bytes / 1e9:.1f} GB are needed. Make room there, "
            f"or set {VARIABLE} to a folder on a larger disk."
        )


@contextmanager
def writing(path: str, *errors: type[Exception]) -> Iterator[None]:
    """Around what writes the file `path` here: an OSError, or one of `errors`, becomes a StorageError."""
    kinds: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except kinds as error:
        raise StorageError(f"{path} cannot be written ({error}). Make room on the scratch disk.") from error


def sweep() -> None:
    """Remove the work folders of processes that are dead, and videos that nobody has fetched from the outbox for long.

    Safe at any time, in any number of processes at once.
    """
    with _dead_folders() as dead:
        for path in dead:
            shutil.rmtree(path, ignore_errors=True)
    for entry in (*os.scandir(place("outbox")), *os.scandir(place("hashes"))):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - entry.stat().st_mtime > KEEP_S:
                os.unlink(entry.path)


@contextmanager
def _dead_folders() -> Iterator[list[str]]:
    """Work folders whose owner is dead. Until the end they are locked by this process, so that no other takes them."""
    dead: dict[str, int] = {}
    with locked(os.path.join(root(), "work.lock")):
        for entry in os.scandir(place("work")):
            # Without that file: half removed, or a system that tidies up has taken it from a living process.
            if os.path.exists(f"{entry.path}/owner") or time.time() - entry.stat().st_mtime > KEEP_S:
                owner = _try_lock(f"{entry.path}/owner")
                dead |= {entry.path: owner} if owner is not None else {}
    try:
        yield list(dead)
    finally:
        for owner in dead.values():
            os.close(owner)


@contextmanager
def tried_lock(path: str) -> Iterator[bool]:
    """Whether the lock on the file `path` could be had at once; if so, it is held until the end."""
    file = _try_lock(path)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def _try_lock(path: str) -> int | None:
    """The open and locked file, None if another process holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # being removed by another process
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _own_folder() -> str:
    """The work folder of this process, made on first use; then what dead processes left is removed, too."""
    with _lock:
        key = (os.getpid(), root())
        if key in _owned and os.path.exists(f"{_owned[key]}/owner"):
            return _owned[key]
        path = os.path.join(place("work"), f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
        with locked(os.path.join(root(), "work.lock")):  # nobody may see the folder without its owner's lock
            os.mkdir(path, MINE)
            owner = _try_lock(os.path.join(path, "owner"))
        assert owner is not None
        _owner_files.append(owner)
        _owned[key] = path
        atexit.register(_leave, key)
        sweep()
        return path


def _leave(key: tuple[int, str]) -> None:
    if key[0] == os.getpid():
        shutil.rmtree(_owned[key], ignore_errors=True)


@contextmanager
def locked(path: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock between processes (and threads) on the file `path`, which is made. It ends with the process."""
    file = _open_locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(file)


def _open_locked(path: str, kind: int) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(file, kind)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # whoever held it has removed it: this lock would hold nobody off
