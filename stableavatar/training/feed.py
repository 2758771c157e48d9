"""Batches of a worker, read ahead by threads, in the order of the run."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch

from stableavatar.training.encode import Sample, collate
from stableavatar.training.objective import Source
from stableavatar.training.order import Draw


def read_sample(source: Source, draw: Draw) -> Sample:
    """One sample with its seed."""
    return source.read(draw) | {"seed": torch.tensor(draw.seed)}


def feed(source: Source, draws: Iterable[Draw], batch_size: int, num_ahead: int = 8) -> Generator[Sample]:
    """Batches of `batch_size` samples, some samples read ahead. The order is that of `draws`."""
    waiting: deque[Future[Sample]] = deque()
    iterator: Iterator[Draw] = iter(draws)
    with ThreadPoolExecutor(2) as pool:
        try:
            for draw in islice(iterator, num_ahead * batch_size):
                waiting.append(pool.submit(read_sample, source, draw))
            while len(waiting) >= batch_size:
                yield collate(waiting.popleft().result() for _ in range(batch_size))
                for draw in islice(iterator, batch_size):
                    waiting.append(pool.submit(read_sample, source, draw))
        finally:
            for future in waiting:
                future.cancel()
