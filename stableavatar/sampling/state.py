"""Where sampling stands, and the file that keeps it: all that is needed to go on as if it had never stopped.

Shapes: B batch, C channels, F latent frames, H W latent height and width.
"""

import json
import zlib
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_FORMAT = "stableavatar sampler state 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplerState:
    """A point between two windows, or between two steps."""

    step: int = 0  # steps done
    num_windows: int = 0  # windows done of the next step: fewer than all of them
    latents_BCFHW: Tensor  # before that step
    total_BCFHW: Tensor | None = None  # blended velocities of the windows done, up to the end of the last one; None: 0
    scheduler: dict[str, Any] = field(default_factory=dict)  # what it has gathered: numbers, None, tensors and lists

    def num_done(self, num_windows: int) -> int:
        """Window-steps done, where every step has this many windows."""
        return self.step * num_windows + self.num_windows

    def write(self, path: str) -> None:
        """Write it to a new file: safetensors, with the small values as JSON beside the tensors."""
        tensors: dict[str, Tensor] = {}
        content = _pack(vars(self), tensors)
        checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
        words = {"format": _FORMAT, "content": content, "checksums": checksums}
        save_file(tensors, path, metadata={"state": json.dumps(words)})

    @classmethod
    def read(cls, path: str) -> Self:
        """Read what `write` has written, into host memory.

        Raises:
            ValueError: the file is missing, damaged, or something else.
        """
        try:
            with safe_open(path, "pt") as file:
                words = json.loads((file.metadata() or {})["state"])
                # Copied: the tensors would be views of the file, and the file does not stay.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (not a dict)
            if words["format"] != _FORMAT:
                raise ValueError(f"its format is {words['format']!r}")
            if words["checksums"] != {name: _checksum(tensor) for name, tensor in tensors.items()}:
                raise ValueError("its numbers are not those that were written")
            return cls(**_unpack(words["content"], tensors))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no sampler state that can be used: {error}") from error


def to_host(tensor: Tensor, num_latents: int | None = None) -> Tensor:
    """A copy in host memory of the first latent frames, [B, C, F, ...]. It takes no memory of the device."""
    part = tensor[:, :, :num_latents]
    copy = torch.empty(part.shape, dtype=part.dtype)
    for ours, theirs in zip(copy.flatten(0, 1), part.flatten(0, 1), strict=True):
        ours.copy_(theirs)  # a channel's frames lie together; all channels at once would be gathered on the device
    return copy


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON has it; its tensors go to `tensors`, and their names stand in their places."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {key: _pack(part, tensors) for key, part in value.items()}
    return [_pack(part, tensors) for part in value] if isinstance(value, list) else value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: _unpack(part, tensors) for key, part in value.items()}
    return [_unpack(part, tensors) for part in value] if isinstance(value, list) else value


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().data)
