"""Where the networks live, so that a video fits into the memory that is there: by diffusers' and accelerate's means.

| mode | on the device | speed |
|---|---|---|
| `full` | everything | full |
| `model_offload` | the network that is at work; the others wait in host memory | full, with pauses between phases |
| `group_offload` | one or two layers of the transformer at a time, the next one arriving while one works | less |
| `fp8` | everything, the transformer's layers stored in 8 bits; arithmetic stays in bfloat16 | nearly full |
| `fp8_group_offload` | as `group_offload`, with half of the transfers | less |

Group offloading keeps a pinned copy of the transformer in host memory.

The first three give the same video. fp8 rounds the weights and gives a slightly different one, so `auto`, and the step
down after running out of memory, never change between fp8 and not fp8.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import UserCpuOffloadHook, remove_hook_from_module
from torch import nn

from stableavatar.choices import MODES, RESIDENT
from stableavatar.model.dit import StableAvatarTransformer
from stableavatar.model.weights import dtype_of

_LOWER = {"full": "model_offload", "model_offload": "group_offload", "fp8": "fp8_group_offload"}
_SPARE = 0.9  # of the free memory may be planned for; the rest is lost to fragments and kernels' workspaces
_ROWS, _TOKENS, _HIDDEN = 3, 32_760, 3  # guidance rows, tokens of a 480x832 window, feed-forward sized tensors at once

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Memory:
    """The networks of one avatar and where they live.

    Raises:
        ValueError: there is no such mode.
    """

    networks: Sequence[nn.Module]  # all but the transformer, in the order in which a video uses them first
    transformer: StableAvatarTransformer
    device: torch.device  # where the arithmetic is done
    mode: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", *MODES):
            raise ValueError(f"there is no memory mode {self.mode!r}; there is: auto, {', '.join(MODES)}")
        if self.mode == "auto":
            self.mode = choose_mode(self.networks, self.transformer, free_bytes(self.device))
        self._place()

    @property
    def all(self) -> list[nn.Module]:
        """The networks in the order in which a video uses them first."""
        return [*self.networks, self.transformer]

    def lower(self) -> bool:
        """Go to the next mode that takes less memory. False: there is none."""
        lower = lower_mode(self.mode)
        if lower is None:
            return False
        logger.warning("%s has too little memory for mode %s: going on in %s", self.device, self.mode, lower)
        self.mode = lower
        self._place()
        return True

    def rest(self) -> None:
        """Send the networks that take turns back to host memory, as the next one would that is called before them."""
        if self.mode not in RESIDENT:
            for network in self.networks:
                network.to("cpu")

    def _place(self) -> None:
        for network in self.all:
            remove_hook_from_module(network)
        if self.mode.startswith("fp8") and not is_fp8(self.transformer):
            store_in_fp8(self.transformer)
        if self.mode in RESIDENT:
            for network in self.all:
                network.to(self.device)
        elif self.mode == "model_offload":
            _take_turns(self.all, self.device)
        else:
            _take_turns(self.networks, self.device)
            _move_in_groups(self.transformer, self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def lower_mode(mode: str) -> str | None:
    """The next mode that takes less memory and gives the same video; None if there is none."""
    return _LOWER.get(mode)


def choose_mode(networks: Sequence[nn.Module], transformer: StableAvatarTransformer, free: int | None) -> str:
    """The fastest mode that fits into `free` bytes (None: memory without bounds), by an estimate."""
    if free is None or full_bytes(networks, transformer) <= free * _SPARE:
        return "full"
    largest = max(_num_bytes(transformer), *map(_num_bytes, networks))
    return "model_offload" if largest + _working_bytes(transformer) <= free * _SPARE else "group_offload"


def full_bytes(networks: Sequence[nn.Module], transformer: StableAvatarTransformer) -> int:
    """What mode `full` takes, by an estimate."""
    return _num_bytes(transformer) + sum(map(_num_bytes, networks)) + _working_bytes(transformer)


def _working_bytes(transformer: StableAvatarTransformer) -> int:
    # The largest tensors of a forward pass are those inside a feed-forward layer, in 16 bits.
    return _ROWS * _TOKENS * _HIDDEN * transformer.config.ffn_dim * 2


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that nobody uses, and of it no more than this process was given a part of.

    None for the CPU, where there is nothing to offload to.
    """
    if device.type != "cuda":
        return None
    free, whole = torch.cuda.mem_get_info(device)
    # Who shares the device may not have loaded its networks yet.
    return min(free, int(whole * torch.cuda.get_per_process_memory_fraction(device)))


def store_in_fp8(transformer: StableAvatarTransformer) -> None:
    """Store the layers' weights in 8 bits, compute in bfloat16. What needs more (norms, modulation, time) keeps it."""
    for name, parameter in transformer.named_parameters():
        parameter.data = parameter.data.to(dtype_of(transformer, name, parameter, torch.bfloat16))
    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)


def is_fp8(transformer: nn.Module) -> bool:
    """Whether `store_in_fp8` was here."""
    return any(parameter.dtype == torch.float8_e4m3fn for parameter in transformer.parameters())


def _take_turns(networks: Sequence[nn.Module], device: torch.device) -> None:
    """Each network comes to the device when it is called, and sends away the one that was called before it."""
    hooks: list[UserCpuOffloadHook] = []
    for network in networks:
        network.to("cpu")
        hooks.append(cpu_offload_with_hook(network, device, hooks[-1] if hooks else None)[1])
    hooks[0].hook.prev_module_hook = hooks[-1]  # the first one decodes the video in the end


def _move_in_groups(transformer: StableAvatarTransformer, device: torch.device) -> None:
    transformer.to("cpu")
    transformer.enable_group_offload(
        onload_device=device,
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",  # the next block arrives while one works
    )


def _num_bytes(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())
