"""The same numbers on every machine of one kind, however many cores it has."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible(num_threads: int) -> Iterator[None]:
    """Inside, torch works with this many CPU threads and takes no algorithm whose result differs from run to run.

    Sums on a CPU are split by threads, so their last digit depends on the number of threads. Convolutions on a GPU may
    use TF32, as the published code's do.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
            yield
    finally:
        torch.set_num_threads(before)
