"""An objective over several devices: each with a copy (DDP), or each with a part of every layer (FSDP)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from stableavatar.training.objective import Objective
from stableavatar.training.order import Place


def spread(objective: Objective, sharding: str, device: torch.device) -> nn.Module:
    """The objective on this worker's device, tied to its copies or parts on the others where there are any.

    All begin with the first worker's weights; those of others may be on the meta device.
    """
    if _num_workers() == 1:
        return objective.to(device)
    if sharding == "fsdp":
        # Layer by layer: the device never holds more than one of them whole.
        mesh = init_device_mesh(device.type, (_num_workers(),))
        for part in (*objective.layers(), objective):
            _fetch(part, device)
            fully_shard(part, mesh=mesh)  # in place
        return objective.to(device)
    _fetch(objective, device)
    # Frozen tensors need no agreement; the buffers are tables, the same everywhere.
    return DistributedDataParallel(
        objective.to(device),
        broadcast_buffers=False,
        device_ids=_ids(device),
        find_unused_parameters=objective.leaves_out,
    )


def has_values(place: Place) -> bool:
    """Whether a worker begins with a network that has weights: the first one's go to the others, in `spread`."""
    return place.rank == 0 or _num_workers() == 1


def _fetch(part: nn.Module, device: torch.device) -> None:
    """Put the parameters that are still whole on the device, with the values that the first worker has for them."""
    for module in part.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                continue
            there = torch.empty_like(parameter, device=device) if parameter.is_meta else parameter.detach().to(device)
            dist.broadcast(there, src=0)
            setattr(module, name, nn.Parameter(there, parameter.requires_grad))


def unspread(module: nn.Module) -> Objective:
    """The objective under what ties it to the others."""
    found: Any = module.module if isinstance(module, DistributedDataParallel) else module
    return found


def without_sync(module: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Gradients of all but the last batch of a step stay on the worker."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    return nullcontext()


def mean_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The mean of each number over all workers."""
    if _num_workers() > 1:
        dist.all_reduce(values)
        values /= _num_workers()
    return values


def sum_over_workers(values: torch.Tensor) -> torch.Tensor:
    """The sum of each number over all workers."""
    if _num_workers() > 1:
        dist.all_reduce(values)
    return values


def agreed(value: Any) -> Any:
    """What the first worker says; all workers call it."""
    said = [value]
    if _num_workers() > 1:
        dist.broadcast_object_list(said, src=0)
    return said[0]


def wait_for_all() -> None:
    """Return when all workers have come here."""
    if _num_workers() > 1:
        dist.barrier()


def _num_workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _ids(device: torch.device) -> list[torch.device] | None:
    return [device] if device.type == "cuda" else None
