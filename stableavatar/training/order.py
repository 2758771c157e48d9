"""Which sample comes when: a pure function of the seed and of how many samples were taken, so nothing has to be kept.

Every epoch is a new permutation. Random draws of a step and of a sample come from generators that are seeded by their
place, so a run that is resumed goes on as if it had never stopped, on as many workers as one likes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which worker this is."""

    rank: int = 0
    num_workers: int = 1


ALONE = Place()


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One sample to be taken."""

    position: int  # how many samples the run has taken before it
    index: int  # of the clip or the encoded window
    seed: int  # of everything that is random in it


def seed_of(*words: int | str) -> int:
    """A seed of 63 bits from numbers and words."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_of(*words: int | str) -> torch.Generator:
    """A generator on the CPU, seeded by its place in the run."""
    return torch.Generator().manual_seed(seed_of(*words))


def draw(position: int, num_samples: int, seed: int) -> Draw:
    """The sample at a position of the run, of `num_samples` that there are."""
    epoch, place = divmod(position, num_samples)
    return Draw(
        position=position,
        index=int(_permutation(seed, epoch, num_samples)[place]),
        seed=seed_of(seed, "sample", position),
    )


def draws(start: int, num_samples: int, seed: int, batch_size: int, place: Place) -> Iterator[Draw]:
    """The samples of one worker from the position `start` on, without end. Each batch is one after the other."""
    while True:
        first = start + place.rank * batch_size
        yield from (draw(first + place_in, num_samples, seed) for place_in in range(batch_size))
        start += place.num_workers * batch_size


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    return np.random.default_rng(seed_of(seed, "epoch", epoch)).permutation(num_samples)
