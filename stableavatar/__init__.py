"""Talking videos of any length from one portrait and one voice.

import stableavatar

stableavatar.load("checkpoints").generate("face.png", "speech.wav", "out.mp4", prompt="A woman talks.")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stableavatar.api import StableAvatar


def load(model: str = "tiny", *, weights: str = "square", device: str | None = None) -> "StableAvatar":
    """Load a model: a preset's name, or a folder of published weights.

    Args:
        model: `tiny`, or the folder.
        weights: which of the folder's, `square` or `rec-vec`.
        device: a GPU if there is one, by default.

    Raises:
        WeightsError: there is no such model, or its files are missing or damaged.
    """
    # Here, not above: every import of a part of this package comes through this file and need not wait for torch.
    from stableavatar.api import StableAvatar
    from stableavatar.checkpoints.inspect import verify_folder
    from stableavatar.presets import find_preset

    preset = find_preset(model, weights)
    verify_folder(preset)
    return StableAvatar(preset, device=device)
