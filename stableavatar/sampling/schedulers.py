"""Flow-matching schedulers by name, all from diffusers. Each keeps the state of one video: make another for the next.

Euler's schedule applies the shift twice, as the published one does; the other two apply it once.
"""

from collections.abc import Callable
from typing import Any

from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler


def euler_scheduler(num_steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    """Flow matching over `num_steps` steps. The published schedule applies the shift twice, as diffusers does."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    return scheduler


def unipc_scheduler(num_steps: int, shift: float) -> UniPCMultistepScheduler:
    """UniPC, second order. Source: arXiv 2302.04867."""
    return _multistep(UniPCMultistepScheduler, num_steps, shift)


def dpm_scheduler(num_steps: int, shift: float) -> DPMSolverMultistepScheduler:
    """DPM-Solver++, second order, multistep. Source: arXiv 2211.01095."""
    return _multistep(DPMSolverMultistepScheduler, num_steps, shift)


SCHEDULERS: dict[str, Callable[[int, float], Any]] = {
    "euler": euler_scheduler,
    "unipc": unipc_scheduler,
    "dpm++": dpm_scheduler,
}


def _multistep(scheduler_class: Any, num_steps: int, shift: float) -> Any:
    scheduler = scheduler_class(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(num_steps)
    # diffusers cuts these time steps to whole numbers; the model knows the time exactly, and so do the sigmas.
    scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
    return scheduler
