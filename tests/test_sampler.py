from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from stableavatar.sampling.sampler import draw_noise, sample
from stableavatar.sampling.schedulers import SCHEDULERS, euler_scheduler
from stableavatar.sampling.windows import Window, plan_windows, uniform_ramp

TARGET = torch.linspace(-1, 1, 12).view(1, 1, 12, 1, 1)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_an_exact_model_gives_its_data_whatever_the_windows(scheduler: str, num_steps: int) -> None:
    """With velocity (x - x0) / sigma, flow matching ends at x0; a wrong blend or a missed frame would not."""
    noise = draw_noise((1, 1, 12, 2, 2), seed=1)
    for window_latents, overlap in [(12, 0), (5, 3), (5, 0), (7, 1)]:
        windows = plan_windows(12, window_latents, overlap)

        def velocity(x: Tensor, timestep: Tensor, _: int, index: int, windows: Sequence[Window] = windows) -> Tensor:
            return (x - TARGET[:, :, windows[index].span]) / (timestep / 1000)

        latents = sample(velocity, noise, windows, uniform_ramp(overlap), SCHEDULERS[scheduler](num_steps, 5.0))
        torch.testing.assert_close(latents, TARGET.expand_as(noise), atol=1e-4, rtol=0)


def test_the_first_step_replaces_and_later_steps_blend() -> None:
    """A model that only says which window it is: after one step the later window rules, after two it is blended."""
    windows = plan_windows(8, 5, 2)
    noise = torch.zeros(1, 1, 8, 1, 1)

    def moved(num_steps: int) -> list[float]:
        def velocity(latents: Tensor, timestep: Tensor, step: int, index: int) -> Tensor:
            return torch.full_like(latents, float(index))

        scheduler = euler_scheduler(num_steps, 5.0)
        steps = scheduler.sigmas.diff()
        result = sample(velocity, noise, windows, uniform_ramp(2), scheduler).flatten()
        return [(result[3] / steps.sum()).item(), (result[4] / steps.sum()).item()]

    assert moved(1) == pytest.approx([1, 1])
    first_share = (euler_scheduler(2, 5.0).sigmas.diff()[0] / -1).item()
    assert moved(2) == pytest.approx([first_share, 1], abs=1e-5)


def test_every_window_of_every_step_is_asked_for() -> None:
    asked: list[tuple[int, int]] = []

    def velocity(latents: Tensor, timestep: Tensor, step: int, index: int) -> Tensor:
        asked.append((step, index))
        return latents

    sample(velocity, torch.zeros(1, 1, 8, 1, 1), plan_windows(8, 5, 2), uniform_ramp(2), euler_scheduler(3, 5.0))
    assert asked == [(step, index) for step in range(3) for index in range(2)]


def test_progress_counts_every_window_of_every_step() -> None:
    calls: list[int] = []
    windows = plan_windows(20, 5, 2)
    sample(
        lambda x, t, s, n: x,
        torch.zeros(1, 1, 20, 1, 1),
        windows,
        uniform_ramp(2),
        euler_scheduler(3, 5.0),
        lambda: calls.append(1),
    )
    assert len(calls) == 3 * len(windows)


def test_noise_depends_on_the_seed_alone() -> None:
    torch.testing.assert_close(draw_noise((4,), 7), draw_noise((4,), 7), rtol=0, atol=0)
    assert not torch.equal(draw_noise((4,), 7), draw_noise((4,), 8))
