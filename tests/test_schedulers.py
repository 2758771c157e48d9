from typing import Any

import pytest
import torch

from stableavatar.sampling.schedulers import SCHEDULERS, gathered, is_of_its_kind


def content(scheduler: Any) -> dict[str, str]:
    """Everything that a scheduler holds, to be compared."""
    return {name: repr(value) for name, value in vars(scheduler).items()}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_that_changes_in_a_scheduler_is_gathered(name: str) -> None:
    scheduler = SCHEDULERS[name](5, 5.0)
    before, latents = content(scheduler), torch.randn(1, 4, 3, 2, 2)
    for timestep in scheduler.timesteps[:3]:
        latents = scheduler.step(torch.sin(latents), timestep, latents, return_dict=False)[0]
    changed = {part for part, value in content(scheduler).items() if before.get(part) != value}
    assert changed and changed <= gathered(scheduler).keys()


def test_what_one_kind_gathered_is_not_given_to_another() -> None:
    schedulers = {name: make(5, 5.0) for name, make in SCHEDULERS.items()}
    for ours, scheduler in schedulers.items():
        assert is_of_its_kind(scheduler, {})
        assert [name for name, other in schedulers.items() if is_of_its_kind(other, gathered(scheduler))] == [ours]
