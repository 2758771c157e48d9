"""What the stages did, and when: their times, and the lanes of their workers. Pure figures, from spans."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean, median, quantiles
from typing import Any

from pipelines.spans import Span, spans_of
from pipelines.stage import STAGES

WIDTH = 1000.0  # of a timeline
MAX_LANES = 32  # of a stage
MAX_BARS = 6000  # of all lanes together
MAX_TICKS = 5
STEPS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600, 8 * 3600, 12 * 3600)
DAY_S = 86_400

Labelled = tuple[str, Span]  # the id of a row, and what a stage did with it


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The seconds that rows took in a stage."""

    stage: str
    num_rows: int
    mean_s: float
    median_s: float
    p95_s: float
    sum_s: float
    share: float  # of the longest sum: 0..1


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a worker did: a row, or several in a piece of time. `x` and `width`: 0..WIDTH; `busy`: 0..1 of it."""

    x: float
    width: float
    busy: float
    ids: tuple[str, ...]
    started_at: float  # seconds since 1970, UTC
    ended_at: float


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What one worker did."""

    worker: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The workers of a stage: the first MAX_LANES, in the order in which they began."""

    stage: str
    num_workers: int
    seconds: float
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Who did what when. `ticks`: where on the axis (0..WIDTH), and when that was, in seconds since 1970."""

    began_at: float
    ended_at: float
    step_s: float
    ticks: tuple[tuple[float, float], ...]
    groups: tuple[Group, ...]


def timings(rows: Iterable[Mapping[str, Any]]) -> list[Timing]:
    """The times of all stages."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for span in spans_of(row):
            found[span.stage].append(span.seconds)
    longest = max(map(sum, found.values()), default=0.0) or 1.0
    return [_timing(stage, found[stage], longest) for stage in _in_order(found)]


def _timing(stage: str, seconds: list[float], longest: float) -> Timing:
    return Timing(
        stage=stage,
        num_rows=len(seconds),
        mean_s=fmean(seconds),
        median_s=median(seconds),
        p95_s=quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0],
        sum_s=sum(seconds),
        share=sum(seconds) / longest,
    )


def busy_share(rows: Iterable[Mapping[str, Any]], num_generators: int) -> float | None:
    """How much of their time the generators worked, from the first row's begin to the last one's end; None: unknown.

    There were `num_generators`, or as many as worked at once if those were more.
    """
    spans = [span for row in rows for span in spans_of(row) if span.stage == "generate"]
    wall_s = max(map(_end, spans), default=0.0) - min((span.started_at for span in spans), default=0.0)
    if wall_s <= 0:
        return None
    edges = sorted(edge for span in spans for edge in ((span.started_at, 1), (_end(span), -1)))
    at_once = most = 0
    for _, change in edges:  # where one ends as another begins, the end comes first
        at_once += change
        most = max(most, at_once)
    return sum(span.seconds for span in spans) / (wall_s * max(num_generators, most))


def timeline(rows: Iterable[Mapping[str, Any]]) -> Timeline | None:
    """Who worked on these rows, and when; None if they do not tell."""
    stages: dict[str, dict[str, list[Labelled]]] = defaultdict(lambda: defaultdict(list))
    labelled = [(row["id"], span) for row in rows for span in spans_of(row)]
    for id, span in sorted(labelled, key=lambda item: item[1].started_at):
        stages[span.stage][span.worker].append((id, span))
    if not labelled:
        return None
    began_at = min(span.started_at for _, span in labelled)
    ended_at = max(max(_end(span) for _, span in labelled), began_at + 1e-3)
    num_lanes = sum(min(len(workers), MAX_LANES) for workers in stages.values())
    axis = _Axis(began_at, ended_at, max_bars=MAX_BARS // num_lanes)
    return Timeline(
        began_at=began_at,
        ended_at=ended_at,
        step_s=axis.step_s,
        ticks=axis.ticks(),
        groups=tuple(_group(stage, stages[stage], axis) for stage in _in_order(stages)),
    )


def _group(stage: str, workers: Mapping[str, Sequence[Labelled]], axis: "_Axis") -> Group:
    lanes = [Lane(worker=worker, bars=axis.bars(workers[worker])) for worker in list(workers)[:MAX_LANES]]
    seconds = sum(span.seconds for labelled in workers.values() for _, span in labelled)
    return Group(stage=stage, num_workers=len(workers), seconds=seconds, lanes=tuple(lanes))


class _Axis:
    """From times to places. A lane gets at most `max_bars`: where there is more, rows that begin together are one."""

    def __init__(self, began_at: float, ended_at: float, max_bars: int) -> None:
        self.began_at = began_at
        self.scale = WIDTH / (ended_at - began_at)
        self.max_bars = max_bars
        wanted_s = (ended_at - began_at) / MAX_TICKS
        days = math.ceil(wanted_s / DAY_S) * DAY_S
        self.step_s = float(next((step for step in STEPS_S if step >= wanted_s), days))
        self.ended_at = ended_at

    def ticks(self) -> tuple[tuple[float, float], ...]:
        first = math.ceil(self.began_at / self.step_s) * self.step_s
        times = [first + k * self.step_s for k in range(MAX_TICKS + 1)]
        return tuple((self._x(time), time) for time in times if time <= self.ended_at)

    def bars(self, labelled: Sequence[Labelled]) -> tuple[Bar, ...]:
        if len(labelled) <= self.max_bars:
            return tuple(self._bar([item]) for item in labelled)
        pieces: dict[int, list[Labelled]] = defaultdict(list)
        for id, span in labelled:
            pieces[int(self._x(span.started_at) * (self.max_bars - 1) / WIDTH)].append((id, span))
        return tuple(map(self._bar, pieces.values()))

    def _bar(self, labelled: Sequence[Labelled]) -> Bar:
        spans = [span for _, span in labelled]
        started_at, ended_at = spans[0].started_at, max(map(_end, spans))
        return Bar(
            x=self._x(started_at),
            width=(ended_at - started_at) * self.scale,
            busy=min(1.0, sum(span.seconds for span in spans) / max(ended_at - started_at, 1e-6)),
            ids=tuple(id for id, _ in labelled),
            started_at=started_at,
            ended_at=ended_at,
        )

    def _x(self, time: float) -> float:
        return (time - self.began_at) * self.scale


def _end(span: Span) -> float:
    return span.started_at + span.seconds


def _in_order(stages: Iterable[str]) -> list[str]:
    """As rows go through them; what is not known comes last."""
    return sorted(stages, key=lambda stage: STAGES.index(stage) if stage in STAGES else len(STAGES))


def clock(time: float, step_s: float = 1.0) -> str:
    """A time of day, UTC, as exact as steps of this length need."""
    form = "%d %b" if step_s >= DAY_S else "%H:%M" if step_s >= 60 else "%H:%M:%S"
    return datetime.fromtimestamp(time, UTC).strftime(form)
