"""Where a video is cut, and which parts of it become clips."""

import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stableavatar.ffmpeg import read
from stableavatar.preprocess.footage import Footage, at_25_fps, blaming, output
from stableavatar.preprocess.rules import SCENE_THRESHOLD

_SEARCH_WIDTH = 320  # pixels; a cut is seen in a small picture as well


@dataclass(frozen=True, kw_only=True, order=True)
class Shot:
    """Frames [first, stop) of one take."""

    first: int
    stop: int

    @property
    def num_frames(self) -> int:
        """Its length."""
        return self.stop - self.first


def find_shots(footage: Footage, threshold: float = SCENE_THRESHOLD) -> list[Shot]:
    """The shots of a video, from where it has picture and sound to where one of them ends, by decoding it.

    Hard cuts are found; a fade or a dissolve is part of the shot. Memory does not grow with the length.
    Raises BadInput if a frame is damaged.
    """
    cuts, num_frames = find_cuts(footage, threshold)
    return shots_between(cuts, footage.first, min(num_frames, footage.sound_stop))


def find_cuts(footage: Footage, threshold: float) -> tuple[list[int], int]:
    """(the first frames of new shots, the number of all frames)."""
    with tempfile.TemporaryDirectory(prefix="stableavatar-") as folder, blaming(footage.path):
        told = os.path.join(folder, "cuts")
        small = at_25_fps(footage).filter("scale", _SEARCH_WIDTH, -2).filter("scdet", threshold=threshold)
        small = small.filter("metadata", mode="print", key="lavfi.scd.time", file=told)
        num_frames = sum(map(len, read(output(_one_byte(small), "gray"))))
        text = Path(told).read_text() if os.path.exists(told) else ""
    return [int(number) for number in re.findall(r"^frame:\d+\s+pts:(\d+)", text, re.MULTILINE)], num_frames


def shots_between(cuts: Iterable[int], first: int, stop: int) -> list[Shot]:
    """The shots of frames [first, stop), of which `cuts` are the first frames."""
    edges = [first, *(cut for cut in sorted(cuts) if first < cut < stop), stop]
    return [Shot(first=a, stop=b) for a, b in pairwise(edges) if a < b]


def split(shots: Iterable[Shot], max_frames: int | None) -> Iterator[Shot]:
    """The shots; one that is longer than `max_frames` in parts that are equally long, give or take a frame."""
    for shot in shots:
        num_parts = math.ceil(shot.num_frames / max_frames) if max_frames else 1
        edges = [shot.first + shot.num_frames * part // num_parts for part in range(num_parts + 1)]
        yield from (Shot(first=a, stop=b) for a, b in pairwise(edges))


def _one_byte(picture: Any) -> Any:
    """A byte for each frame: then the number of bytes is that of the frames."""
    return picture.filter("scale", 1, 1).filter("format", "gray")
