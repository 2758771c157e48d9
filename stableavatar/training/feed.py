"""Batches of a worker, read ahead by threads, in the order of the run."""

import logging
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

from stableavatar.errors import BadInput
from stableavatar.training.encode import Sample, collate
from stableavatar.training.objective import Source
from stableavatar.training.order import Draw, Order, Place

MOST_REPLACED = 8  # samples in a row that cannot be read: then it is no accident

T = TypeVar("T")

_log = logging.getLogger(__name__)


def read_or_replace(read: Callable[[Draw], T], draw: Draw, order: Order) -> T:
    """What a draw asks for. For a sample that cannot be read the next one stands in, and the log says so.

    Raises:
        BadInput: those after it cannot be read either.
    """
    for _ in range(MOST_REPLACED - 1):
        try:
            return read(draw)
        except BadInput as error:
            _log.warning("left out: %s", error)
            draw = order.after(draw)
    return read(draw)


def read_sample(source: Source, draw: Draw, order: Order) -> Sample:
    """One sample with its seed. Raises BadInput."""
    return read_or_replace(source.read, draw, order) | {"seed": torch.tensor(draw.seed)}


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
