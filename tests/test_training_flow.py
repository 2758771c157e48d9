"""Against a few lines written straight from the paper's formulas, gradients included."""

import pytest
import torch

from stableavatar.training.config import Loss
from stableavatar.training.flow import add_noise, choose_weights, stratified_sigmas, velocity_loss


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_noise_and_what_leads_on_from_it() -> None:
    clean, noise, sigma = normal(2, 4, 3, 2, 2), normal(2, 4, 3, 2, 2, seed=1), torch.tensor([0.25, 1.0])
    noisy = add_noise(clean, noise, sigma)
    for row, share in enumerate((0.25, 1.0)):
        torch.testing.assert_close(noisy.latents_BCFHW[row], (1 - share) * clean[row] + share * noise[row])
    assert torch.equal(noisy.target_BCFHW, noise - clean)
    assert noisy.timestep_B.tolist() == [250, 1000]
    # Straight back along the target lies the clean video.
    torch.testing.assert_close(noisy.latents_BCFHW - sigma.view(-1, 1, 1, 1, 1) * noisy.target_BCFHW, clean)


def test_the_levels_of_a_step_are_spread_over_the_shifted_schedule() -> None:
    draw = torch.Generator().manual_seed(4)
    levels = torch.stack([stratified_sigmas(8, 5.0, draw) for _ in range(400)])
    assert levels.min() > 0 and levels.max() <= 1
    unshifted = levels / (5 - 4 * levels)  # the inverse of 5 s / (1 + 4 s)
    indices = (unshifted * 1000).round().long() - 1
    torch.testing.assert_close((indices + 1) / 1000, unshifted, atol=1e-5, rtol=0)
    assert (indices // 125).sort(dim=1).values.eq(torch.arange(8)).all()  # one in each eighth
    assert (indices // 125)[:, 0].unique().numel() == 8  # in any order
    assert abs(indices.float().mean() - 499.5) < 10


@pytest.mark.parametrize(("axis", "name"), [(2, "frames"), (1, "reference")])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_loss_and_its_gradient(axis: int, name: str, normalise: bool) -> None:
    loss = Loss(motion_axis=name, normalise=normalise)
    predicted, target = normal(2, 4, 5, 3, 2).requires_grad_(), normal(2, 4, 5, 3, 2, seed=1)
    weights = torch.rand(2, 1, 5, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    velocity_loss(predicted, target, weights, loss).backward()
    assert predicted.grad is not None

    def mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = [value.mean() / (one.mean() if normalise else 1) for value, one in zip(values, weight, strict=True)]
        return sum(rows, torch.zeros(())) / len(rows)

    mine = predicted.detach().clone().requires_grad_()
    full = weights.expand(2, 4, 5, 3, 2)
    error = mean(full * (mine - target) ** 2, full)
    last, first = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(None, -1)))
    moved = ((mine[last] - mine[first]) - (target[last] - target[first])) ** 2
    motion = mean(full[last] * moved, full[last])
    (0.75 * error + 0.25 * motion).backward()
    torch.testing.assert_close(predicted.grad, mine.grad, rtol=1e-5, atol=1e-8)
    assert predicted.grad.abs().max() > 0


def test_where_the_mask_is_empty_nothing_is_learned() -> None:
    predicted = normal(1, 4, 5, 3, 2).requires_grad_()
    weights = torch.zeros(1, 1, 5, 3, 2)
    weights[..., 0, 0] = 1
    velocity_loss(predicted, normal(1, 4, 5, 3, 2, seed=1), weights, Loss()).backward()
    assert predicted.grad is not None
    assert predicted.grad[..., 0, 0].abs().min() > 0 and predicted.grad[..., 1:, :].abs().max() == 0


def test_a_step_looks_at_everything_at_the_face_or_at_the_lips() -> None:
    face, lip = torch.full((1, 1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1, 1), 5.0)
    draw = torch.Generator().manual_seed(0)
    seen = [float(choose_weights(face, lip, Loss(), draw)) for _ in range(4000)]
    shares = [seen.count(value) / len(seen) for value in (1 + 2 + 5, 2, 5)]
    assert shares == pytest.approx([0.4, 0.1, 0.5], abs=0.03)
