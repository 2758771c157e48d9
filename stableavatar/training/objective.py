"""What is trained: a network, and the loss of a batch. The loss is the module's `forward`, so that whatever spreads a
module over devices spreads this too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from stableavatar.presets import Preset
from stableavatar.training.config import TrainingConfig
from stableavatar.training.encode import Sample
from stableavatar.training.order import ALONE, Draw, Place


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where in the run a batch belongs: its random draws depend on this and the run's seed alone."""

    step: int
    batch: int = 0  # of the step, where gradients are accumulated
    num_batches: int = 1  # of a worker in this step
    place: Place = ALONE

    @property
    def part(self) -> int:
        """Which batch of the step this is, in the order of the run: the same however workers and batches share it."""
        return self.batch * self.place.num_workers + self.place.rank


class Source(Protocol):
    """The samples of an objective, in any order."""

    def __len__(self) -> int:
        """How many there are in an epoch."""

    def read(self, draw: Draw) -> Sample:
        """One of them; what is random in it comes from the draw's seed."""


class Objective(nn.Module):
    """A network in training."""

    part: ClassVar[str]  # of the model, as in `Component.part`
    leaves_out: ClassVar[bool] = False  # whether a pass may leave layers unused, by chance

    def __init__(self, network: nn.Module, config: TrainingConfig):
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, batch: Sample, moment: Moment) -> dict[str, Tensor]:
        """The losses of a batch, one number each; "loss" is what is minimised, the others are for the eye."""
        raise NotImplementedError

    def trained(self) -> list[str]:
        """Names of the parameters that are trained, among those of this module."""
        return [name for name, _ in self.named_parameters()]

    def layers(self) -> list[nn.Module]:
        """The parts that are spread over devices one by one."""
        return []

    def finish(self, network: Any, source: Source, preset: Preset) -> Mapping[str, Any]:
        """What the training has changed in the preset besides the weights; `network` has those that are saved."""
        del network, source, preset
        return {}
