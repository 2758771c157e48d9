"""From phonemes to the mouth: each class of phonemes that look alike has a shape, and the shapes flow into each other.

The classes are those of MPEG-4 (ISO/IEC 14496-2, table of visemes), with vowels by how far the jaw falls.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stableavatar.drawn.espeak import Phoneme
from stableavatar.units import FPS

_log = logging.getLogger(__name__)

SMOOTHING_S = 0.030  # sigma: a step between two shapes takes about 70 ms
CLOSING_S = 0.070  # from open lips to closed ones, before and after p, b and m
CLOSED_S = 0.5 / FPS  # around the middle of a closure: one frame at least shows it
LONGEST_CLOSURE_S = 0.09  # of p, b and m: what follows is the breath of a stop
SHORTEST_PAUSE_S = 0.08  # in which the mouth closes
GRID_HZ = 1000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A mouth: `opening` 0 (closed) to 1, `width` 0 (rounded) to 1 (spread)."""

    opening: float
    width: float


SHAPES = {
    "silence": Shape(opening=0.0, width=0.5),
    "p b m": Shape(opening=0.0, width=0.5),
    "f v": Shape(opening=0.10, width=0.6),
    "th": Shape(opening=0.22, width=0.6),
    "t d n l": Shape(opening=0.25, width=0.6),
    "k g": Shape(opening=0.32, width=0.5),
    "sh": Shape(opening=0.22, width=0.2),
    "s z": Shape(opening=0.15, width=0.75),
    "r": Shape(opening=0.28, width=0.4),
    "a": Shape(opening=1.0, width=0.65),
    "e": Shape(opening=0.62, width=0.8),
    "i": Shape(opening=0.38, width=1.0),
    "o": Shape(opening=0.72, width=0.2),
    "u": Shape(opening=0.35, width=0.0),
    "neutral": Shape(opening=0.45, width=0.5),
}
CLOSED = ("silence", "p b m")

_SIGNS = {
    "p b m": "pbmɓ",
    "f v": "fvɱʋ",
    "th": "θð",
    "t d n l": "tdnlɾɫɭʎɲɖʈɳ",
    "k g": "kgɡŋxɣhɦʔqçχɟcɰ",
    "sh": "ʃʒɕʑʂʐ",
    "s z": "sz",
    "r": "rɹʁʀɻɽ",
    "a": "aɑæɐɒʌ",
    "e": "eɛ",
    "i": "iɪjɨᵻʝ",
    "o": "oɔɤ",
    "u": "uʊwyʏøœɥʉ",
    "neutral": "əɜɚɝ",
    "p b m-like": "β",
}
_SIGNS["f v"] += _SIGNS.pop("p b m-like")  # lips near each other, not closed
_CLASSES = {sign: viseme for viseme, signs in _SIGNS.items() for sign in signs}
# Stress, length, syllables, ties, secondary articulation, tones and voicing: the lips do not show them.
_UNSEEN = set("ˈˌːˑ.ʲʰˠˤˀ͡‿-'_!|;:,~^\"*# ʷ1234567890˞") | {chr(code) for code in range(0x0300, 0x0370)}


def visemes(name: str) -> tuple[str, ...]:
    """The classes of an IPA name, in order: two for a diphthong or an affricate. A pause is "silence".

    A sign nobody has classed is "neutral", and is logged once.
    """
    signs = [sign for sign in name if sign not in _UNSEEN]
    return tuple(_class_of(sign) for sign in signs) or ("silence",)


@cache
def _class_of(sign: str) -> str:
    if sign not in _CLASSES:
        _log.warning("no viseme for the phoneme %r (U+%04X): it is drawn as a half-open mouth", sign, ord(sign))
    return _CLASSES.get(sign, "neutral")


def segments(phonemes: Sequence[Phoneme]) -> Iterator[tuple[str, float, float]]:
    """(class, start_s, end_s) in order; the parts of a diphthong share its time.

    In a pause too short to close the mouth it stays as it was.
    """
    classes: tuple[str, ...] = ("silence",)
    for phoneme in phonemes:
        is_short = phoneme.end_s - phoneme.start_s < SHORTEST_PAUSE_S
        found = visemes(phoneme.name)
        classes = classes[-1:] if found == ("silence",) and is_short else found
        times_s = np.linspace(phoneme.start_s, phoneme.end_s, len(classes) + 1)
        for number, viseme in enumerate(classes):
            yield viseme, float(times_s[number]), float(times_s[number + 1])


def mouth_curve(phonemes: Sequence[Phoneme], num_frames: int, fps: float = FPS) -> np.ndarray:
    """Opening and width of the mouth, float32 [num_frames, 2], at the middle of each frame's time.

    Where there is no phoneme the mouth is closed. Smoothing looks equally far to both sides, so that the mouth neither
    leads nor lags the sound.
    """
    middles_s = (np.arange(num_frames) + 0.5) / fps
    grid_s = np.arange(-0.5, num_frames / fps + 0.5, 1 / GRID_HZ)
    targets = np.tile([[SHAPES["silence"].opening, SHAPES["silence"].width]], (len(grid_s), 1))
    gate = np.ones(len(grid_s))
    for viseme, start_s, end_s in segments(phonemes):
        inside = (grid_s >= start_s) & (grid_s < end_s)
        targets[inside] = SHAPES[viseme].opening, SHAPES[viseme].width
        if viseme == "p b m":
            middle_s = start_s + min(end_s - start_s, LONGEST_CLOSURE_S) / 2
            away_s = np.abs(grid_s - middle_s) - CLOSED_S
            gate = np.minimum(gate, _smooth_step(away_s / CLOSING_S))
    curve = gaussian_filter1d(targets, SMOOTHING_S * GRID_HZ, axis=0, mode="nearest")
    curve[:, 0] *= gate
    curve[curve[:, 0] < 0.02, 0] = 0.0
    return np.stack([np.interp(middles_s, grid_s, column) for column in curve.T], axis=1).astype(np.float32)


def _smooth_step(x: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, without corners between."""
    x = x.clip(0, 1)
    return x * x * (3 - 2 * x)


NUM_VISEMES = len(SHAPES)


def viseme_track(phonemes: Sequence[Phoneme], times_s: np.ndarray) -> np.ndarray:
    """The number of the class (its place in `SHAPES`) that is heard at each time, int64 [len(times_s)]."""
    numbers = {name: number for number, name in enumerate(SHAPES)}
    track = np.full(len(times_s), numbers["silence"])
    for viseme, start_s, end_s in segments(phonemes):
        track[(times_s >= start_s) & (times_s < end_s)] = numbers[viseme]
    return track
