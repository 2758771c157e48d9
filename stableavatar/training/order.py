"""Which sample comes when: a pure function of the seed and of how many samples were taken, so nothing has to be kept.

Every epoch is a new permutation. Random draws of a step and of a sample come from generators that are seeded by their
place, so a run that is resumed goes on as if it had never stopped, on as many workers as one likes.
"""

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

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


class Order:
    """The order of a run's samples."""

    def __init__(self, num_samples: int, seed: int, batch_size: int = 1, sizes: Sequence[Hashable] = ()):
        """`sizes`: of each sample, where they differ: then every batch holds samples of one size.

        Where a size does not fill its last batch of an epoch, some of its samples come twice in that epoch.
        """
        self.num_samples, self.seed, self.batch_size = num_samples, seed, batch_size
        self.sizes = sizes if len(set(sizes)) > 1 else ()
        self._groups = self._by_size() if batch_size > 1 else []
        self._newest: tuple[int, np.ndarray] | None = None

    @property
    def epoch_length(self) -> int:
        """Samples that are taken in an epoch."""
        whole = sum(-(-len(group) // self.batch_size) for group in self._groups) * self.batch_size
        return whole or self.num_samples

    def draw(self, position: int) -> Draw:
        """The sample at a position of the run."""
        epoch, place = divmod(position, self.epoch_length)
        if self._newest is None or self._newest[0] != epoch:
            self._newest = epoch, self._permutation(epoch)
        index = int(self._newest[1][place])
        return Draw(position=position, index=index, seed=seed_of(self.seed, "sample", position))

    def position(self, number: int, start: int, place: Place) -> int:
        """Where in the run the `number`-th sample stands that a worker takes from the position `start` on."""
        batch, place_in = divmod(number, self.batch_size)
        return start + (batch * place.num_workers + place.rank) * self.batch_size + place_in

    def draws(self, start: int, place: Place) -> Iterator[Draw]:
        """The samples of one worker from the position `start` on, without end."""
        return (self.draw(self.position(number, start, place)) for number in count())

    def after(self, drawn: Draw) -> Draw:
        """What stands in for a sample that cannot be read: the next one of its size."""
        for step in range(1, self.num_samples + 1):
            index = (drawn.index + step) % self.num_samples
            if not self.sizes or self.sizes[index] == self.sizes[drawn.index]:
                break
        return replace(drawn, index=index)

    def _by_size(self) -> list[np.ndarray]:
        groups: dict[Hashable, list[int]] = {}
        for index, size in enumerate(self.sizes):
            groups.setdefault(size, []).append(index)
        return [np.array(groups[size]) for size in sorted(groups, key=str)]

    def _permutation(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng(seed_of(self.seed, "epoch", epoch))
        if not self._groups:
            return random.permutation(self.num_samples)
        batches = [self._batches(random.permutation(group)) for group in self._groups]
        return random.permutation(np.concatenate(batches)).ravel()

    def _batches(self, indices: np.ndarray) -> np.ndarray:
        return np.resize(indices, (-(-len(indices) // self.batch_size), self.batch_size))
