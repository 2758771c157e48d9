from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stableavatar.sampling.windows import (
    Window,
    log_ramp,
    plan_published_windows,
    plan_windows,
    uniform_ramp,
)


@pytest.mark.parametrize("overlap", [0, 1, 5, 15, 20])
@pytest.mark.parametrize("num_latents", [21, 22, 36, 37, 38, 100, 901])
def test_full_windows_cover_every_latent_frame(num_latents: int, overlap: int) -> None:
    windows = plan_windows(num_latents, 21, overlap)
    assert all(window.length == 21 for window in windows)
    assert windows[0].start == 0 and windows[0].num_shared == 0
    assert windows[-1].start + 21 == num_latents
    for earlier, later in pairwise(windows):
        assert earlier.start < later.start
        assert later.num_shared == earlier.start + 21 - later.start >= overlap


def test_only_the_last_window_shares_more() -> None:
    assert [(w.start, w.num_shared) for w in plan_windows(40, 21, 5)] == [(0, 0), (16, 5), (19, 18)]


def test_published_plan_shortens_the_last_window() -> None:
    windows = plan_published_windows(40, 21, 5)
    assert [(w.start, w.length, w.num_shared) for w in windows] == [(0, 21, 0), (16, 21, 5), (32, 8, 5)]


def test_both_plans_agree_where_windows_fit() -> None:
    assert plan_windows(37, 21, 5) == plan_published_windows(37, 21, 5)


@pytest.mark.parametrize(("num_latents", "overlap"), [(20, 5), (21, 21), (21, -1)])
def test_impossible_plans(num_latents: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=r"latent frames|overlap"):
        plan_windows(num_latents, 21, overlap)


@pytest.mark.parametrize("ramp", [uniform_ramp, log_ramp])
@pytest.mark.parametrize("overlap", [0, 1, 2, 5, 15])
def test_ramps_rise_within_bounds(ramp: Callable[[int], Tensor], overlap: int) -> None:
    weights = ramp(overlap)
    assert weights.shape == (overlap,)
    assert torch.isfinite(weights).all()
    assert (weights.diff() > 0).all()
    if overlap > 1:
        assert weights[0] == 0 and weights[-1] == 1


def test_log_ramp_follows_its_formula() -> None:
    torch.testing.assert_close(log_ramp(3)[1], torch.log(1 + 0.5 * (torch.tensor(torch.e) - 1)))


def test_a_window_that_shares_more_fades_in_at_the_seam() -> None:
    weights = Window(start=3, length=6, num_shared=4).weights(uniform_ramp(2))
    assert weights.tolist() == [0, 0, 0, 1, 1, 1]
