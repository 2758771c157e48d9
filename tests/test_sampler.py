from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stableavatar.sampling.sampler import Known, draw_noise, sample
from stableavatar.sampling.schedulers import SCHEDULERS, euler_scheduler
from stableavatar.sampling.state import SamplerState
from stableavatar.sampling.windows import Window, plan_windows, uniform_ramp

TARGET = torch.linspace(-1, 1, 12).view(1, 1, 12, 1, 1)


def begin(noise: Tensor) -> SamplerState:
    return SamplerState(latents_BCFHW=noise)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_an_exact_model_gives_its_data_whatever_the_windows(scheduler: str, num_steps: int) -> None:
    """With velocity (x - x0) / sigma, flow matching ends at x0; a wrong blend or a missed frame would not."""
    noise = draw_noise((1, 1, 12, 2, 2), seed=1)
    for window_latents, overlap in [(12, 0), (5, 3), (5, 0), (7, 1)]:
        windows = plan_windows(12, window_latents, overlap)

        def velocity(x: Tensor, timestep: Tensor, _: int, index: int, windows: Sequence[Window] = windows) -> Tensor:
            return (x - TARGET[:, :, windows[index].span]) / (timestep / 1000)

        latents = sample(velocity, begin(noise), windows, uniform_ramp(overlap), SCHEDULERS[scheduler](num_steps, 5.0))
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
        result = sample(velocity, begin(noise), windows, uniform_ramp(2), scheduler).flatten()
        return [(result[3] / steps.sum()).item(), (result[4] / steps.sum()).item()]

    assert moved(1) == pytest.approx([1, 1])
    first_share = (euler_scheduler(2, 5.0).sigmas.diff()[0] / -1).item()
    assert moved(2) == pytest.approx([first_share, 1], abs=1e-5)


def test_every_window_of_every_step_is_asked_for() -> None:
    asked: list[tuple[int, int]] = []

    def velocity(latents: Tensor, timestep: Tensor, step: int, index: int) -> Tensor:
        asked.append((step, index))
        return latents

    start = begin(torch.zeros(1, 1, 8, 1, 1))
    sample(velocity, start, plan_windows(8, 5, 2), uniform_ramp(2), euler_scheduler(3, 5.0))
    assert asked == [(step, index) for step in range(3) for index in range(2)]


def test_progress_counts_every_window_of_every_step() -> None:
    calls: list[int] = []
    windows = plan_windows(20, 5, 2)
    sample(
        lambda x, t, s, n: x,
        begin(torch.zeros(1, 1, 20, 1, 1)),
        windows,
        uniform_ramp(2),
        euler_scheduler(3, 5.0),
        on_window=lambda _: calls.append(1),
    )
    assert len(calls) == 3 * len(windows)


def test_noise_depends_on_the_seed_alone() -> None:
    torch.testing.assert_close(draw_noise((4,), 7), draw_noise((4,), 7), rtol=0, atol=0)
    assert not torch.equal(draw_noise((4,), 7), draw_noise((4,), 8))


def curved(x: Tensor, timestep: Tensor, step: int, index: int) -> Tensor:
    """A velocity that no scheduler follows exactly, different in every window."""
    return torch.sin(3 * x + index) - 0.1 * step * x


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_going_on_from_any_point_gives_the_same_latents_bit_for_bit(scheduler: str, tmp_path: Path) -> None:
    noise, windows, ramp = draw_noise((1, 4, 12, 2, 2), seed=1), plan_windows(12, 5, 2), uniform_ramp(2)
    points: list[str] = []

    def keep(snapshot: Callable[[], SamplerState]) -> None:
        points.append(f"{tmp_path}/{len(points)}")
        snapshot().write(points[-1])

    expected = sample(curved, begin(noise), windows, ramp, SCHEDULERS[scheduler](4, 5.0), on_window=keep)
    for num_done, point in enumerate(points, 1):
        asked: list[tuple[int, int]] = []

        def velocity(x: Tensor, t: Tensor, step: int, index: int, asked: list[tuple[int, int]] = asked) -> Tensor:
            asked.append((step, index))
            return curved(x, t, step, index)

        start = SamplerState.read(point)
        assert start.num_done(len(windows)) == num_done
        again = sample(velocity, start, windows, ramp, SCHEDULERS[scheduler](4, 5.0))
        assert torch.equal(again, expected)
        assert len(asked) == 4 * len(windows) - num_done  # nothing is done twice


def test_a_snapshot_no_longer_changes() -> None:
    windows, ramp = plan_windows(12, 5, 2), uniform_ramp(2)
    snapshots: list[SamplerState] = []
    noise = draw_noise((1, 4, 12, 2, 2), seed=1)
    expected = sample(
        curved, begin(noise), windows, ramp, SCHEDULERS["unipc"](3, 5.0), on_window=lambda s: snapshots.append(s())
    )
    for snapshot in snapshots:
        assert torch.equal(sample(curved, snapshot, windows, ramp, SCHEDULERS["unipc"](3, 5.0)), expected)


def test_a_snapshot_is_no_larger_than_it_need_be() -> None:
    windows = plan_windows(12, 5, 2)
    snapshots: list[SamplerState] = []
    start = begin(draw_noise((1, 4, 12, 2, 2), seed=1))
    sample(curved, start, windows, uniform_ramp(2), euler_scheduler(2, 5.0), on_window=lambda s: snapshots.append(s()))
    totals = [0 if s.total_BCFHW is None else s.total_BCFHW.shape[2] for s in snapshots]
    assert totals == [*(window.span.stop for window in windows[:-1]), 0] * 2
    assert snapshots[-1].scheduler == {}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_known_latents_stay_and_the_model_sees_them_with_the_noise_of_each_step(scheduler: str, num_steps: int) -> None:
    noise, old = draw_noise((1, 1, 12, 2, 2), seed=1), draw_noise((1, 1, 12, 2, 2), seed=2)
    weights = torch.tensor([0, 0, 0, 0.25, 0.75, 1, 1, 1, 0.5, 0, 0, 0])
    windows = plan_windows(12, 5, 3)

    def velocity(x: Tensor, timestep: Tensor, _: int, index: int) -> Tensor:
        sigma = timestep / 1000
        span, is_known = windows[index].span, weights[windows[index].span] == 0
        seen = (1 - sigma) * old[:, :, span] + sigma * noise[:, :, span]
        torch.testing.assert_close(x[:, :, is_known], seen[:, :, is_known], atol=2e-3, rtol=0)
        return (x - TARGET[:, :, span]) / sigma

    known = Known(latents_BCFHW=old, noise_BCFHW=noise, weights_F=weights)
    given = (velocity, begin(noise), windows, uniform_ramp(3), SCHEDULERS[scheduler](num_steps, 5.0))
    latents = sample(*given, known=known)
    assert torch.equal(latents[:, :, weights == 0], old[:, :, weights == 0])
    mixed = old * (1 - weights.view(12, 1, 1)) + TARGET * weights.view(12, 1, 1)
    is_new = weights == 1
    torch.testing.assert_close(latents[:, :, is_new], mixed[:, :, is_new], atol=1e-4, rtol=0)
    if num_steps == 1:
        torch.testing.assert_close(latents, mixed, atol=1e-4, rtol=0)
