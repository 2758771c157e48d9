"""Which part of a medium's sound is meant."""

from dataclasses import dataclass

from stableavatar.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds [start_s, end_s) of one sound stream of a medium, with silence before and after.

    `end_s`: None is the end of the medium. `stream`: number of the stream among the sounds of the file, from 0, or its
    language; empty is the first. Raises BadInput for times that are none.
    """

    start_s: float = 0.0
    end_s: float | None = None
    stream: str = ""
    pad_before_s: float = 0.0
    pad_after_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start_s", "pad_before_s", "pad_after_s"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} is {getattr(self, name)}. Give seconds from 0.")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise BadInput(f"end_s is {self.end_s:g} and start_s is {self.start_s:g}. Let end_s be greater.")
