"""What a video of a drawn face shows, frame by frame, and how it fares over time and across the seams of windows.

Frames come one by one, so that a long video needs no more memory than a short one.

Shapes: V video frames, S seconds, K frames whose likeness is taken, H W height and width, C colours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stableavatar.drawn.likeness import Likeness
from stableavatar.drawn.measure import mouth_opening
from stableavatar.sampling.windows import Window
from stableavatar.units import FPS, frames_of

COLOURS = ("brightness", "blue", "red")  # luma and the two chroma values of ITU-R BT.601, 0 to 255
_BT601 = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_CHROMA_MIDDLE = np.array([0.0, 128.0, 128.0])


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Everything that is measured in the frames of one video."""

    mouth_V: np.ndarray  # opening, fraction of the smaller side
    colours_V3: np.ndarray  # mean over the picture of COLOURS
    changes_V: np.ndarray  # mean absolute difference of colour, 0 to 255, from the frame before; the first is NaN
    distances_K: np.ndarray  # to the portrait, 0 to 255, see likeness.py; empty if it was not asked for
    distance_every: int  # frames

    def distances_S(self) -> np.ndarray:
        """Distance to the portrait by second."""
        return _by_second(np.repeat(self.distances_K, self.distance_every)[: len(self.mouth_V)])

    def colours_S3(self) -> np.ndarray:
        """Mean colours by second."""
        return _by_second(self.colours_V3)


def judge_frames(frames: Iterable[np.ndarray], likeness: Likeness | None = None, distance_every: int = FPS) -> Judged:
    """Measure a video, given as uint8 RGB frames [H, W, 3]; the likeness of every so many frames."""
    mouths, colours, changes, distances = [], [], list[float](), []
    previous = None
    for number, frame_HWC in enumerate(frames):
        mouths.append(mouth_opening(frame_HWC[None])[0])
        colours.append(_BT601 @ frame_HWC.mean(axis=(0, 1)) + _CHROMA_MIDDLE)
        pixels = frame_HWC.astype(np.int16)
        changes.append(float(np.abs(pixels - previous).mean()) if previous is not None else float("nan"))
        previous = pixels
        if likeness is not None and number % distance_every == 0:
            distances.append(likeness.distance(frame_HWC))
    return Judged(
        mouth_V=np.array(mouths),
        colours_V3=np.array(colours),
        changes_V=np.array(changes),
        distances_K=np.array(distances),
        distance_every=distance_every,
    )


def seams_of(windows: Sequence[Window], overlap: int) -> list[range]:
    """The frames at which each later window takes over from those before it.

    A seam goes from the first frame that the later window has a part in to the first that is its own alone; without
    overlap that is one frame.
    """
    seams = []
    for window in windows[1:]:
        last = window.start + window.num_shared
        first = last - min(overlap, window.num_shared)
        seams.append(range(max(0, frames_of(first)), max(0, frames_of(last)) + 1))
    return seams


def seam_scores(changes_V: np.ndarray, seams: Sequence[range]) -> list[float]:
    """Change from frame to frame in each seam, by the mean outside of all: 1 where a seam does not show.

    Seams behind the end of the video are left out.
    """
    seams = [range(seam.start, min(seam.stop, len(changes_V))) for seam in seams if seam.start < len(changes_V)]
    outside = np.ones(len(changes_V), bool)
    outside[0] = False  # before the first frame there is none
    for seam in seams:
        outside[seam.start : seam.stop] = False
    usual = float(changes_V[outside].mean()) if outside.any() else float("nan")
    return [float(changes_V[seam.start : seam.stop].mean()) / usual if usual else float("nan") for seam in seams]


def _by_second(values_V: np.ndarray) -> np.ndarray:
    """Means over whole seconds: the end that does not fill one is left out."""
    num_s = len(values_V) // FPS
    return values_V[: num_s * FPS].reshape(num_s, FPS, *values_V.shape[1:]).mean(axis=1)
