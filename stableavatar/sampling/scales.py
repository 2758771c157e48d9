"""Scales that change from step to step, written as text that fits into a manifest's cell.

`5` is 5 in every step. `5x20,1` is 5 in the first twenty steps and 1 in all that follow. `1x5, 5x20, 3x5` is read the
same way; steps behind the last part keep its scale. Since parts follow each other, no step is left out or named twice.
"""

import math
import re

MAX_STEPS = 1000  # of one part: more than any video takes
MAX_SCALE = 100.0

Scale = float | str  # as people write it
Schedule = tuple[float, ...]  # one scale per step; the last one holds for all later steps

_PART = re.compile(r"(?P<scale>[^x]+?)(?:\s*x\s*(?P<count>[^x]+))?")


def parse_scale(scale: Scale) -> Schedule:
    """Read a scale: a number, or text such as `5x20,1`.

    Raises:
        ValueError: it is not written like that; the message names the part that is wrong.
    """
    if not isinstance(scale, str):
        return (_bounded(float(scale), str(scale)),)
    parts = scale.split(",")
    schedule: list[float] = []
    for place, part in enumerate(parts):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"scale {scale!r}: {_word(part)} is not written as SCALE or SCALExSTEPS, such as 5x20,1")
        if match["count"] is None and place < len(parts) - 1:
            raise ValueError(f"scale {scale!r}: {_word(part)} is followed by more, so it needs steps, such as 5x20")
        schedule += [_number(match["scale"], scale)] * _count(match["count"] or "1", scale)
    return tuple(schedule)


def scale_at(schedule: Schedule, step: int) -> float:
    """The scale of one step, counted from 0."""
    return schedule[min(step, len(schedule) - 1)]


def _number(word: str, scale: str) -> float:
    # float() alone would also take "1e1", "1_0" and "inf".
    return _bounded(float(word) if re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", word) else math.nan, word, scale)


def _bounded(number: float, word: str, scale: str = "") -> float:
    if not 0 <= number <= MAX_SCALE:  # NaN is not
        raise ValueError(f"scale {scale or word!r}: {_word(word)} is not a number from 0 to {MAX_SCALE:g}")
    return number


def _count(word: str, scale: str) -> int:
    if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= MAX_STEPS):
        raise ValueError(f"scale {scale!r}: {_word(word)} is not a number of steps from 1 to {MAX_STEPS}")
    return int(word)


def _word(text: str) -> str:
    return repr(text.strip()) if text.strip() else "an empty part"
