"""A face as MediaPipe would find it, without MediaPipe."""

import numpy as np

from stableavatar.preprocess.masks import FACE, LIPS

WIDTH, HEIGHT = 60, 40  # pixels of the frame


def mesh(shift: float = 0.0) -> np.ndarray:
    """A mesh whose face and lips are ellipses around the middle, in the order of their outlines."""
    points_N2 = np.full((478, 2), -1000.0)  # what is no part of an outline must not matter
    for outline, radius_x, radius_y, turn in ((FACE, 20, 15, -np.pi / 2), (LIPS, 8, 4, np.pi)):
        angles = turn + 2 * np.pi * np.arange(len(outline)) / len(outline)
        points_N2[list(outline), 0] = WIDTH / 2 + shift + radius_x * np.cos(angles)
        points_N2[list(outline), 1] = HEIGHT / 2 + radius_y * np.sin(angles)
    return points_N2
