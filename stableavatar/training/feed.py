"""Batches of a worker, read ahead by threads, in the order of the run."""

import logging
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import torch

from stableavatar.errors import BadInput
from stableavatar.training.encode import Sample, collate
from stableavatar.training.objective import Source
from stableavatar.training.order import Draw, Order, Place

MOST_REPLACED = 8  # samples in a row that cannot be read: then it is no accident

_log = logging.getLogger(__name__)


def read_sample(source: Source, draw: Draw, order: Order) -> Sample:
    """One sample with its seed. For one that cannot be read the next one stands in, and the log says so.

    Raises:
        BadInput: those after it cannot be read either.
    """
    for number in range(MOST_REPLACED):
        try:
            return source.read(draw) | {"seed": torch.tensor(draw.seed)}
        except BadInput as error:
            if number == MOST_REPLACED - 1:
                raise
            _log.warning("left out: %s", error)
            draw = order.after(draw)
    raise AssertionError("not reached")


def feed(source: Source, order: Order, start: int, place: Place, num_ahead: int = 8) -> Generator[Sample]:
    """The batches of a worker from the position `start` on, some samples read ahead."""
    waiting: deque[Future[Sample]] = deque()
    draws, size = order.draws(start, place), order.batch_size
    with ThreadPoolExecutor(2) as pool:
        try:
            for draw in islice(draws, num_ahead * size):
                waiting.append(pool.submit(read_sample, source, draw, order))
            while True:
                yield collate([waiting.popleft().result() for _ in range(size)])
                for draw in islice(draws, size):
                    waiting.append(pool.submit(read_sample, source, draw, order))
        finally:
            for future in waiting:
                future.cancel()
