"""What this process has moved to and from stores so far, as plain counters."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of file content, and requests that had to be repeated."""

    bytes_read: int = 0
    bytes_written: int = 0
    num_retries: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(**{name: amount + getattr(other, name) for name, amount in vars(self).items()})

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(**{name: amount - getattr(other, name) for name, amount in vars(self).items()})


_so_far = Traffic()
_lock = threading.Lock()  # uploads run in threads of their own


def count(**amounts: int) -> None:
    """Add to the counters."""
    global _so_far
    with _lock:
        _so_far += Traffic(**amounts)


def so_far() -> Traffic:
    """The counters of this process."""
    return _so_far
