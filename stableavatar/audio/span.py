"""Which part of a medium's sound is meant."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds [start_s, end_s) of one sound stream of a medium, with silence before and after.

    `end_s`: None is the end of the medium. `stream`: number of the stream among the sounds of the file, from 0, or its
    language; empty is the first.
    """

    start_s: float = 0.0
    end_s: float | None = None
    stream: str = ""
    pad_before_s: float = 0.0
    pad_after_s: float = 0.0
