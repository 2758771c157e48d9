"""Is it still the same face? The distance of a frame to the portrait, where neither mouth nor eyes move.

The head sways, so the frame is first turned and moved back onto the portrait. Without any network: a face whose skin,
hair, brows, nose or glasses change gets farther away, in steps of colour.

Shapes: H W height and width, C colours, N points of the region.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Self

import numpy as np
from scipy.ndimage import binary_dilation, map_coordinates
from scipy.optimize import minimize

from stableavatar.drawn.draw import Pose, draw
from stableavatar.drawn.faces import Identity

MARGIN = 0.02  # of the smaller side, kept from what moves
FARTHEST = 0.04  # of the smaller side: two heads that sway as far as they can, apart
STEEPEST_DEGREES = 6.0
GRID = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of both, where the search starts


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A portrait, and the part of its face that stays the same while it talks."""

    portrait_HWC: np.ndarray  # uint8 RGB
    points_N2: np.ndarray  # rows and columns of that part

    @classmethod
    def of(cls, identity: Identity, pose: Pose, size: tuple[int, int]) -> Self:
        """Of a drawn face. `size`: width and height in pixels."""
        drawn = draw(identity, pose, size)
        extremes = [{"mouth_opening": 0.0}, {"mouth_opening": 1.0, "mouth_width": 1.0}, {"blink": 0.0}, {"blink": 1.0}]
        moving = np.zeros(drawn.face_mask_HW.shape, bool)
        for changes in extremes:
            other = draw(identity, replace(pose, **changes), size).image_HWC
            moving |= (other != drawn.image_HWC).any(axis=2)
        moving = binary_dilation(moving, iterations=max(1, round(MARGIN * min(size))))
        return cls(portrait_HWC=drawn.image_HWC, points_N2=np.argwhere(drawn.face_mask_HW & ~moving))

    def distance(self, frame_HWC: np.ndarray) -> float:
        """Mean absolute difference of colour, 0 to 255, of a uint8 RGB frame that is laid on the portrait."""
        frame = np.moveaxis(frame_HWC, -1, 0).astype(np.float32)
        coarse = self.points_N2[::4]
        start = min(product(GRID, GRID, GRID), key=lambda move: self._distance(frame, np.array(move), coarse))
        found = minimize(
            lambda move: self._distance(frame, move, self.points_N2),
            np.array(start),
            method="Nelder-Mead",
            options={
                "initial_simplex": start + np.vstack([np.zeros(3), 0.3 * np.eye(3)]),
                "xatol": 0.01,
                "fatol": 0.01,
            },
        )
        return float(found.fun)

    def _distance(self, frame_CHW: np.ndarray, move: np.ndarray, points_N2: np.ndarray) -> float:
        """`move`: down, right and turned, from -1 to 1 of the farthest."""
        height, width = frame_CHW.shape[1:]
        angle = np.radians(STEEPEST_DEGREES * move[2])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        middle = np.array([height - 1, width - 1]) / 2
        places = (points_N2 - middle) @ turn + middle + FARTHEST * min(height, width) * move[:2]
        seen = np.stack([map_coordinates(plane, places.T, order=1, mode="nearest") for plane in frame_CHW], axis=1)
        return float(np.abs(seen - self.portrait_HWC[tuple(points_N2.T)]).mean())
