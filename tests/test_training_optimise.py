import pytest
import torch
from torch import nn

from stableavatar.training.config import Optimiser
from stableavatar.training.optimise import Average, clip_gradients, learning_rate, make_optimiser, norm_limit

PAPER = Optimiser()


@pytest.mark.parametrize(
    ("step", "norm", "limit"),
    [
        (0, 0.01, 0.25),  # five times higher
        (500, 0.01, 0.15),  # on the way down
        (1000, 0.01, 0.05),
        (999, 100.0, 0.0502),  # no jumps before it has come down
        (5000, 0.25, 0.05),  # five times the limit is no jump yet
        (5000, 0.4, 0.05 / 8),
        (5000, 100.0, 0.005),  # ten times harder at most
    ],
)
def test_what_the_norm_is_brought_down_to(step: int, norm: float, limit: float) -> None:
    assert norm_limit(step, norm, PAPER) == pytest.approx(limit)


def test_gradients_are_scaled_together_to_the_limit() -> None:
    layers = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    layers[0].grad, layers[1].grad = torch.tensor([3.0, 0, 0]), torch.tensor([0, 4.0])
    assert clip_gradients(layers, 2000, Optimiser(max_harder=1.0)) == pytest.approx(5)
    torch.testing.assert_close(layers[0].grad, torch.tensor([0.03, 0, 0]))
    torch.testing.assert_close(layers[1].grad, torch.tensor([0, 0.04]))
    assert clip_gradients(layers, 2000, PAPER) == pytest.approx(0.05, rel=1e-4)
    torch.testing.assert_close(layers[0].grad, torch.tensor([0.03, 0, 0]))  # small ones stay


def test_the_learning_rate_warms_up_and_stays() -> None:
    assert [learning_rate(step, 9999, PAPER) for step in (0, 49, 99, 5000)] == pytest.approx([2e-7, 1e-5, 2e-5, 2e-5])


def test_or_falls_as_a_cosine() -> None:
    settings = Optimiser(lr=1.0, warmup_steps=0, schedule="cosine")
    rates = [learning_rate(step, 100, settings) for step in (0, 50, 100)]
    assert rates == pytest.approx([1, 0.505, 0.01])


def test_the_optimizer_is_the_papers() -> None:
    group = make_optimiser([nn.Parameter(torch.zeros(1))], PAPER).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (2e-5, (0.9, 0.999), 1e-10, 3e-2)


def test_the_average_follows_by_its_decay() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = Average({"w": parameter}, 0.9)
    with torch.no_grad():
        parameter.fill_(2.0)
    average.update({"w": parameter}, step=10_000)
    assert average.values["w"].item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    average.update({"w": parameter}, step=0)  # early: a tenth of the past
    assert average.values["w"].item() == pytest.approx(0.1 * 1.1 + 0.9 * 2)
    assert Average({"w": parameter}, 0.0).values == {}
