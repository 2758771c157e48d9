"""Do the lips follow the speech? Measured mouths against true ones, frame by frame.

Both are one value a frame. Their scales differ (fractions of a picture, shares of full opening), so that only the
course counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stableavatar.drawn.espeak import Phoneme
from stableavatar.drawn.visemes import LONGEST_CLOSURE_S, segments
from stableavatar.units import FPS

MAX_LAG = 12  # frames
CLOSED, OPEN = "p b m", "a"  # the classes with the mouth shut, and widest open


@dataclass(frozen=True, kw_only=True)
class Sync:
    """How well a mouth follows the truth. A lag above 0 is a mouth that comes late."""

    correlation: float  # at the same frame
    best_lag: int  # frames
    best_correlation: float


def judge_sync(measured_V: np.ndarray, truth_V: np.ndarray, max_lag: int = MAX_LAG) -> Sync:
    """Correlation of two courses of equal length, and the lag at which it is best."""
    return sync_of(correlations_by_lag(measured_V, truth_V, max_lag))


def sync_of(correlations_L: np.ndarray) -> Sync:
    """The same from correlations by lag, which may be a mean over clips: [2 * max_lag + 1]."""
    max_lag = len(correlations_L) // 2
    best = int(np.argmax(correlations_L))
    return Sync(
        correlation=float(correlations_L[max_lag]),
        best_lag=best - max_lag,
        best_correlation=float(correlations_L[best]),
    )


def correlations_by_lag(measured_V: np.ndarray, truth_V: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """Correlation with the measured course `lag` frames later, for each lag from -max_lag to max_lag.

    Each is taken over the frames that both courses have then. Raises ValueError if they differ in length, or are too
    short to be moved so far.
    """
    if len(measured_V) != len(truth_V) or len(truth_V) < max_lag + 3:
        raise ValueError(
            f"{len(measured_V)} measured and {len(truth_V)} true frames cannot be compared up to a lag of {max_lag}"
        )
    return np.array([_at_lag(measured_V, truth_V, lag) for lag in range(-max_lag, max_lag + 1)])


def correlation(one_V: np.ndarray, other_V: np.ndarray) -> float:
    """Pearson's. 0 if one of them never moves: it follows nothing."""
    one, other = (np.asarray(values, np.float64) - np.mean(values) for values in (one_V, other_V))
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size > 1e-9 else 0.0


def frames_at(phonemes: Sequence[Phoneme], viseme: str, num_frames: int) -> list[int]:
    """The frame that shows the middle of each phoneme of a class, of those that lie in the clip."""
    frames = []
    for name, start_s, end_s in segments(phonemes):
        if name == viseme:
            # As `mouth_curve` draws it: a stop is closed at its beginning, its breath comes after.
            longest_s = LONGEST_CLOSURE_S if viseme == CLOSED else end_s - start_s
            frames.append(int((start_s + min(end_s - start_s, longest_s) / 2) * FPS))
    return [frame for frame in frames if frame < num_frames]


def closures(measured_V: np.ndarray, phonemes: Sequence[Phoneme]) -> float:
    """Opening at p, b and m as a share of that at open vowels: 0 where lips close, 1 where the sound has no effect.

    NaN where the clip has none of them, or the mouth never opens.
    """
    shut, wide = (measured_V[frames_at(phonemes, viseme, len(measured_V))] for viseme in (CLOSED, OPEN))
    if not len(shut) or not len(wide) or not wide.mean() > 0:
        return float("nan")
    return float(shut.mean() / wide.mean())


def _at_lag(measured_V: np.ndarray, truth_V: np.ndarray, lag: int) -> float:
    num = len(truth_V) - abs(lag)
    first, first_true = max(lag, 0), max(-lag, 0)
    return correlation(measured_V[first : first + num], truth_V[first_true : first_true + num])
