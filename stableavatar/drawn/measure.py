"""How far the mouth is open, from pixels alone: the inner mouth's colour is nowhere else in the picture.

Also for pictures that are blurred or noisy, as a network makes them.
"""

import numpy as np

from stableavatar.drawn.faces import INNER_MOUTH, PALEST_RED

_PUREST = max(INNER_MOUTH[1:]) / INNER_MOUTH[0]  # of the inner mouth; below PALEST_RED pixels begin to count
_DARKEST = 24  # red; below, the ratio is mostly noise


def mouth_opening(frames_VHWC: np.ndarray) -> np.ndarray:
    """Height of the open mouth as a fraction of the frame's smaller side, float32 [V]. `frames_VHWC`: uint8 RGB.

    The height is that of the mouth's columns, each counting as much as it is high: how wide the mouth is, and where the
    head is, changes little.
    """
    heights_VW = np.stack([mouth_amount(frame_HWC).sum(axis=0) for frame_HWC in frames_VHWC])
    heights_V = (heights_VW**2).sum(axis=1) / np.maximum(heights_VW.sum(axis=1), 1e-6)
    return (heights_V / min(frames_VHWC.shape[1:3])).astype(np.float32)


def mouth_amount(frame_HWC: np.ndarray) -> np.ndarray:
    """How much each pixel of a uint8 RGB frame is inner mouth, 0 to 1: float32 [H, W]."""
    red, green, blue = np.moveaxis(frame_HWC.astype(np.float32), -1, 0)
    ratio = np.maximum(green, blue) / np.maximum(red, 1.0)
    amount = ((PALEST_RED - ratio) / (PALEST_RED - _PUREST)).clip(0, 1)
    return np.where(red < _DARKEST, 0.0, amount)
