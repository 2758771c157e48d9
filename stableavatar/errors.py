"""What can go wrong: with one video (each error knows its kind, which becomes `error_kind` in its row), or with all."""

import errno
from typing import ClassVar

# Of an OSError: the disk is full, or a network disk does not answer. It says nothing about what was read or written.
DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


class RowError(Exception):
    """One video cannot be made; all others can. The message names the file and the remedy."""

    kind: ClassVar[str] = "internal"


class BadInput(RowError):
    """The manifest row, its portrait or its sound cannot be used as they are. Trying again is useless."""

    kind = "bad_input"


class StorageError(RowError):
    """A file could not be read from or written to its store."""

    kind = "storage"


class NetworkError(StorageError):
    """The store could not be reached, though it was tried again and again. Later it may go."""

    kind = "network"


class OutOfMemory(RowError):
    """The device has too little memory for this video."""

    kind = "out_of_memory"


class BrokenVideo(RowError):
    """The video was made but is not what was promised: not finite, blank, or outside the output contract."""

    kind = "broken_video"


class Quarantined(RowError):
    """The row kills every process that works on it."""

    kind = "quarantined"


KINDS = tuple(
    error.kind for error in (RowError, BadInput, StorageError, NetworkError, OutOfMemory, BrokenVideo, Quarantined)
)


class WeightsError(Exception):
    """The model's files cannot be used: no video of the run can be made. The message names the file and the remedy."""
