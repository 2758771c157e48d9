"""The runs of the paper, to start a YAML file from: `preset: 1.3b-square` and whatever is to be different.

What is not named here is the default of `stableavatar.training.config`, which is the published setting, but for
`augment.silence_as` and `loss.motion_axis`, where "reference" is what was published, and `data.missing_masks`, where
"ones" is.
"""

from collections.abc import Mapping
from typing import Any

SQUARE = ((512, 512),)
WIDE_AND_TALL = ((832, 480), (480, 832))
_LORA = {"lora": {"rank": 128, "alpha": 64.0}}


def _run(sizes: tuple[tuple[int, int], ...], **values: Any) -> dict[str, Any]:
    """A run from the base Wan weights, in the folder that `stableavatar download` makes."""
    return {"model": "checkpoints", "start": "base", "data": {"sizes": sizes}, **values}


_FULL: dict[str, dict[str, Any]] = {
    "1.3b-square": _run(SQUARE, workers={"num_workers": 4}),
    "1.3b-rec-vec": _run(WIDE_AND_TALL, weights="rec-vec", workers={"num_workers": 4}),
    # The parameters, gradients and moments of 14B are 303 GB: they lie in parts on all GPUs.
    "14b": _run((*SQUARE, *WIDE_AND_TALL), workers={"num_workers": 8, "sharding": "fsdp"}),
}

TRAINING_PRESETS: Mapping[str, Mapping[str, Any]] = {
    **_FULL,
    # A LoRA changes StableAvatar's own weights a little; it has no use for the base model's.
    **{f"{name}-lora": {**values, **_LORA, "start": "weights"} for name, values in _FULL.items()},
}
