"""How busy the generators are: rows through the real pools of two GPUs that do not exist, with stages that only sleep.

    python tests/benchmarks/bench_busy.py [ROWS]

A generator is busy while it has a row, by the rows' own spans. It counts from when all of them have begun their first
row until the last row has been begun. Rows of equal lengths, and of mixed ones.
"""

import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import ray

from pipelines import plan, results
from pipelines.generate import Generate
from pipelines.progress import Progress, Reporter
from pipelines.run import Loaders, Options, render_pools
from pipelines.sizes import Work, choose_sizes
from pipelines.spans import Span, spans_of
from pipelines.stage import Row, Stage
from pipelines.workers import Pool, cluster, flow
from stableavatar.presets import PRESETS

NUM_GPUS = 2
MEGABYTES = 5  # of a prepared row


class SleepingGenerate(Generate):
    """Asks whether its row may begin, as the real one does, and sleeps."""

    def process(self, row: Row) -> Row:
        time.sleep(row["sleep_s"])
        return {name: value for name, value in row.items() if name != "sound"}


class SleepingStage(Stage):
    """A stage before or after the generators, in a quarter of a second to half of one."""

    name = "other"

    def __init__(self, *_: object) -> None:
        self.random = random.Random(0)

    def process(self, row: Row) -> Row:
        time.sleep(self.random.uniform(0.2, 0.5))
        return {**row, "sound": bytes(MEGABYTES * 10**6)} if "staged" not in row else row


def asleep(pool: Pool) -> Pool:
    """The pool with its size and its CPUs, but without its work."""
    if pool.stage is results.WriteResult:
        return pool
    return replace(pool, stage=SleepingGenerate if pool.stage is Generate else SleepingStage)


def row(number: int, sleep_s: float) -> Row:
    place = {"manifest": "nothing.jsonl", "row_number": number, "id": f"row-{number}", "content_id": f"{number:032x}"}
    state = {"status": "ready", "error_kind": "", "error": "", "stage": "", "carried": plan.pack({})}
    return {**place, **state, "sleep_s": sleep_s, "num_windows": 1, "num_steps": 1}


def share_and_gap(spans: Sequence[Span]) -> tuple[float, float]:
    """(share of the time in which the generators had a row, median of the seconds between two rows)."""
    by_worker: dict[str, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.started_at):
        by_worker[span.worker].append(span)
    start = max(spans[0].started_at for spans in by_worker.values())
    stop = max(span.started_at for span in spans)
    busy = sum(max(0.0, min(stop, span.started_at + span.seconds) - max(start, span.started_at)) for span in spans)
    gaps = [
        after.started_at - before.started_at - before.seconds
        for spans in by_worker.values()
        for before, after in pairwise(spans)
    ]
    return busy / (len(by_worker) * (stop - start)), statistics.median(gaps)


def measure(name: str, lengths_s: Sequence[float]) -> None:
    """Print the share for rows that take so long."""
    with tempfile.TemporaryDirectory() as output, cluster() as capacity:
        progress = ray.remote(num_cpus=0)(Progress).remote()
        generate = (output, "", 1.0, Reporter(progress))
        loaders = Loaders(avatar=lambda *_: None)  # type: ignore[arg-type]
        sizes = choose_sizes(capacity, Work(lengths={0: lengths_s}))
        pools = render_pools(PRESETS["tiny"](), loaders, Options(), generate, (output, pa.schema([])), sizes)
        rows = [row(number, length_s) for number, length_s in enumerate(lengths_s)]
        made = list(flow(rows, [asleep(pool) for pool in pools]))
    spans = [span for row in made for span in spans_of(row) if span.stage == "generate"]
    share, gap_s = share_and_gap(spans)
    first, last = min(span.started_at for span in spans), max(span.started_at + span.seconds for span in spans)
    took_s = f"{last - first:.1f} s, at best {sum(lengths_s) / NUM_GPUS:.1f} s"
    print(f"{name}, queue {sizes.queue}: busy {share:.1%}, {gap_s:.3f} s between rows; {took_s}", flush=True)


def main(num_rows: int) -> None:
    ray.init("local", num_cpus=4, num_gpus=NUM_GPUS, include_dashboard=False, logging_level="ERROR")
    chance = random.Random(0)
    measure("rows of 1 s", [1.0] * num_rows)
    measure("rows of 1 to 3 s", sorted((chance.uniform(1, 3) for _ in range(num_rows)), reverse=True))
    measure(
        "one of 20 s, then 1 to 3 s", [20.0, *sorted((chance.uniform(1, 3) for _ in range(num_rows)), reverse=True)]
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
