"""How long rows will take, and in which order they are best made."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from pipelines.stage import Row

# What a measured row has. One that was copied, or found made by an earlier attempt, took no time to sample.
NEEDED = ("generate_s", "sample_s", "num_windows", "num_steps", "width", "height", "window_latents")
ESTIMATE_COLUMNS = ("status", "attempts", *NEEDED)  # of the result table

Size = tuple[int, int, int]  # width and height in pixels, latent frames of a window


class Estimate:
    """Seconds on a generator, from what has been measured so far.

    Work counts as windows x steps x size. What a unit of it takes is measured for each size, because attention makes
    large windows dearer than their pixels say; a size not seen yet takes the middle of those that were.
    """

    def __init__(self, finished: Iterable[Mapping[str, Any]] = ()) -> None:
        """`finished`: rows of the result table, with ESTIMATE_COLUMNS."""
        self._measured: dict[Size, list[float]] = defaultdict(list)  # seconds for each unit of work
        self._speeds: dict[Size, float] = {}  # the middle of each of those
        self._speed = 1.0  # and of these
        for row in finished:
            self.learn(row)

    def learn(self, row: Mapping[str, Any]) -> None:
        """Take in one more row. Only those that were made, and in one go, say how fast this goes."""
        if row["status"] == "ok" and row.get("attempts") in (None, 1) and all(map(row.get, NEEDED)):
            measured = self._measured[_size(row)]
            measured.append(row["generate_s"] / work(row))
            self._speeds[_size(row)] = median(measured)
            self._speed = median(self._speeds.values())

    def seconds(self, row: Row) -> float:
        """What the row will take; in no particular unit before anything has been measured. 0 for a failed row."""
        return 0.0 if row["status"] == "failed" else work(row) * self._speeds.get(_size(row), self._speed)

    def in_order(self, rows: Iterable[Row]) -> list[Row]:
        """Failed rows, which only have to be written down; then what an earlier run left; then by priority; then the
        longest, so that no long row comes last.

        But a row whose video is another's copy comes after those that may be the other.
        """

        def key(row: Row) -> tuple[bool, bool, int, bool, float]:
            is_new, priority = not row.get("is_carried"), row["priority"] or 0
            return row["status"] != "failed", is_new, -priority, bool(row.get("twin")), -self.seconds(row)

        return sorted(rows, key=key)

    def by_priority(self, rows: Iterable[Row]) -> dict[int, list[float]]:
        """What the rows of each priority will take, in one unit. Failed rows count for nothing."""
        found: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            if row["status"] != "failed":
                found[row["priority"] or 0].append(self.seconds(row))
        return dict(found)


def work(row: Mapping[str, Any]) -> float:
    """Windows x steps x size of a window."""
    return float(row["num_windows"] * row["num_steps"] * row["width"] * row["height"] * row["window_latents"])


def _size(row: Mapping[str, Any]) -> Size:
    return row["width"], row["height"], row["window_latents"]
