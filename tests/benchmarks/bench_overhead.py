"""What Ray costs for each row: 2,000 rows through the real pools, with stages that do nothing.

    python tests/benchmarks/bench_overhead.py [ROWS]

The result rows are written for real. Prints seconds per row with and without the start of the actors.
"""

import sys
import tempfile
import time
from dataclasses import replace

import pyarrow as pa

from pipelines import plan, results
from pipelines.run import Loaders, Options, render_pools
from pipelines.sizes import Work, choose_sizes
from pipelines.stage import Row
from pipelines.workers import Pool, cluster, flow
from stableavatar.presets import PRESETS


class DoNothing:
    """A stage that takes no time."""

    def __call__(self, row: Row) -> Row:
        return row


def idle(pool: Pool) -> Pool:
    """The pool with its size and its CPUs, but without its work."""
    if pool.stage is results.WriteResult:
        return pool
    return replace(pool, stage=DoNothing, args=())


def row(number: int) -> Row:
    place = {"manifest": "nothing.jsonl", "row_number": number, "id": f"row-{number}", "content_id": f"{number:032x}"}
    return {**place, "status": "ready", "error_kind": "", "error": "", "stage": "", "carried": plan.pack({})}


def main(num_rows: int) -> None:
    with tempfile.TemporaryDirectory() as output, cluster() as capacity:
        sizes = choose_sizes(capacity, Work(lengths={0: [1.0] * num_rows}))
        pools = render_pools(PRESETS["tiny"](), Loaders(), Options(), (), (output, pa.schema([])), sizes)
        started = time.perf_counter()
        times = [time.perf_counter() for _ in flow([row(n) for n in range(num_rows)], [idle(pool) for pool in pools])]
        assert len(results.read_results(output)) == num_rows
    whole, warm = times[-1] - started, times[-1] - times[0]
    print(f"{num_rows} rows: {whole / num_rows:.4f} s per row; {warm / (num_rows - 1):.4f} s once the actors run")
    print(f"first row after {times[0] - started:.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
