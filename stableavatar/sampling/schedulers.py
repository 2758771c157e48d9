"""Flow-matching schedulers by name, all from diffusers. Each keeps the state of one video: make another for the next.

Euler's schedule applies the shift twice, as the published one does; the other two apply it once.

diffusers loads for seconds, so it does when a scheduler is made: to look whether there is such a name takes none of it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stableavatar.sampling.state import to_host

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

# What changes in them from step to step. Their schedule does not.
_GATHERED = ("_step_index", "lower_order_nums", "this_order", "last_sample", "model_outputs", "timestep_list")


def euler_scheduler(num_steps: int, shift: float) -> "FlowMatchEulerDiscreteScheduler":
    """Flow matching over `num_steps` steps. The published schedule applies the shift twice, as diffusers does."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    return scheduler


def unipc_scheduler(num_steps: int, shift: float) -> "UniPCMultistepScheduler":
    """UniPC, second order. Source: arXiv 2302.04867."""
    from diffusers import UniPCMultistepScheduler

    return _multistep(UniPCMultistepScheduler, num_steps, shift)


def dpm_scheduler(num_steps: int, shift: float) -> "DPMSolverMultistepScheduler":
    """DPM-Solver++, second order, multistep. Source: arXiv 2211.01095."""
    from diffusers import DPMSolverMultistepScheduler

    return _multistep(DPMSolverMultistepScheduler, num_steps, shift)


SCHEDULERS: dict[str, Callable[[int, float], Any]] = {
    "euler": euler_scheduler,
    "unipc": unipc_scheduler,
    "dpm++": dpm_scheduler,
}


def gathered(scheduler: Any) -> dict[str, Any]:
    """What a scheduler has gathered in its steps, in host memory: its kind, numbers, None, tensors, lists of these."""
    found = {name: _moved(getattr(scheduler, name), to_host) for name in _GATHERED if hasattr(scheduler, name)}
    return {"kind": _kind(scheduler), **found}


def restore(scheduler: Any, found: dict[str, Any], device: torch.device | str) -> None:
    """Give a new scheduler what another one of its kind had gathered."""
    for name in found.keys() & set(_GATHERED):
        setattr(scheduler, name, _moved(found[name], lambda tensor: tensor.to(device)))


def is_of_its_kind(scheduler: Any, found: dict[str, Any]) -> bool:
    """Whether this was gathered by another scheduler of the same kind. Nothing is of every kind."""
    return not found or found.get("kind") == _kind(scheduler)


def _kind(scheduler: Any) -> str:
    return type(scheduler).__name__


def _moved(value: Any, move: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, list):
        return [_moved(part, move) for part in value]
    # Time steps are single numbers; they live in host memory.
    return move(value) if isinstance(value, Tensor) and value.ndim else value


def _multistep(scheduler_class: Any, num_steps: int, shift: float) -> Any:
    scheduler = scheduler_class(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(num_steps)
    # diffusers cuts these time steps to whole numbers; the model knows the time exactly, and so do the sigmas.
    scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
    return scheduler
