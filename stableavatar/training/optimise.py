"""Steps of the optimizer: learning rate, clipping, and the average of the weights."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from stableavatar.training.config import Optimiser

_COSINE_END = 0.01  # of the learning rate, at the last step


def make_optimiser(parameters: Iterable[nn.Parameter], settings: Optimiser) -> torch.optim.AdamW:
    """AdamW over the trained parameters. Its state is complete from the start, so that it can be saved at any step.

    Left alone it makes that of a parameter with the first gradient, which may come late: that of a layer for videos,
    where a VAE begins with pictures.
    """
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = {"step": torch.tensor(0.0), **moments}
    return optimiser


def learning_rate(step: int, num_steps: int, settings: Optimiser) -> float:
    """Of the step, counted from 0: a linear warm-up, then constant or falling as a cosine."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.schedule == "constant":
        return settings.lr * warm
    left = (1 + math.cos(math.pi * min(1.0, step / max(1, num_steps)))) / 2
    return settings.lr * warm * (_COSINE_END + (1 - _COSINE_END) * left)


def norm_limit(step: int, norm: float, settings: Optimiser) -> float:
    """What the gradient's norm is brought down to: a limit that starts high and falls; harder where the norm jumps."""
    over = 1 - min(1.0, step / settings.start_steps) if settings.start_steps else 0.0
    limit = settings.max_norm * (1 + (settings.start_ratio - 1) * over)
    if step >= settings.start_steps and norm > settings.jump_ratio * limit:
        limit /= min(norm / limit, settings.max_harder)
    return limit


def clip_gradients(parameters: Iterable[nn.Parameter], step: int, settings: Optimiser) -> float:
    """Scale all gradients down to the limit; returns their norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total.full_tensor() if hasattr(total, "full_tensor") else total)  # sharded gradients
    if math.isfinite(norm) and norm > (limit := norm_limit(step, norm, settings)):
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm


class Average:
    """The exponential moving average of parameters, in float32. Without decay it holds nothing."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self.decay = decay
        self.values: dict[str, Tensor] = (
            {name: parameter.detach().float().clone() for name, parameter in parameters.items()} if decay else {}
        )

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """After a step. Early averages forget faster, or they would remember the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(parameters[name].detach().float(), 1 - decay)
