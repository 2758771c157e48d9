"""How a row writes down what is to be corrected: a JSON list of spans of the video, each with its new sound."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

FORM = '`[{"start_s": 12, "end_s": 15.5, "audio": "fix.wav"}]`'
_NAMES = ("start_s", "end_s", "audio")


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Seconds [start_s, end_s) of the video, and the file of what is said there from now on."""

    start_s: float
    end_s: float
    audio: str


def parse_segments(text: str) -> tuple[Sentence, ...]:
    """The sentences in the order of the video.

    Raises:
        ValueError: it is no such list, or two of its spans overlap. The message says the remedy.
    """
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"segments is no JSON ({error}). Write {FORM}") from error
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"segments holds no list of sentences. Write {FORM}")
    sentences = sorted((_sentence(number, words) for number, words in enumerate(listed, 1)), key=lambda s: s.start_s)
    for first, second in pairwise(sentences):
        if second.start_s < first.end_s:
            raise ValueError(
                f"segments overlap: one ends at {first.end_s:g} s, the next starts at {second.start_s:g} s. "
                "Join them to one, or move their ends apart"
            )
    return tuple(sentences)


def _sentence(number: int, words: Any) -> Sentence:
    if not isinstance(words, dict) or set(words) != set(_NAMES):
        raise ValueError(f"segment {number} does not have exactly the words {', '.join(_NAMES)}. Write {FORM}")
    start_s, end_s, audio = (words[name] for name in _NAMES)
    is_span = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (start_s, end_s))
    if not is_span or not 0 <= start_s < end_s < float("inf"):
        raise ValueError(f"segment {number} lasts from {start_s!r} to {end_s!r}. Give seconds, the end after the start")
    if not isinstance(audio, str) or not audio.strip():
        raise ValueError(f"segment {number} names no audio. Give the file of what is said there from now on")
    return Sentence(start_s=float(start_s), end_s=float(end_s), audio=audio)
