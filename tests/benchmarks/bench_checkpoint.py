"""What a snapshot of a video that is being sampled costs, at the true size of a 512x512 video's latents.

python -m tests.benchmarks.bench_checkpoint [--minutes 1 5]

The snapshot is taken in the middle of the third step. `copy` is what the generator waits for, the host's copy; `write`
and `upload` (to an S3 server in this process) can go on beside it. Seconds mean little on another machine: the time of
one float32 matrix product stands beside them. The last column is how far apart snapshots must be for the copies to
take 0.5 % of the time, and in brackets for all three if the generator waited for all of them.
"""

import argparse
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import boto3
import torch

from pipelines import storage
from stableavatar.sampling.sampler import draw_noise, sample
from stableavatar.sampling.schedulers import SCHEDULERS
from stableavatar.sampling.state import SamplerState
from stableavatar.sampling.windows import plan_windows, uniform_ramp
from stableavatar.units import FPS, latents_for
from tests.s3 import serve_s3

SHARE = 0.005  # of the time may go into snapshots
NUM_STEPS, STEP = 4, 2
MATRIX = 4096


@dataclass
class Costs:
    """Takes one snapshot and measures it."""

    folder: str
    wanted: int  # window-steps
    num_done: int = 0
    num_bytes: int = 0
    seconds: list[float] = field(default_factory=list)  # copy, write, upload

    def see(self, snapshot: Callable[[], SamplerState]) -> None:
        self.num_done += 1
        if self.num_done != self.wanted:
            return
        path = os.path.join(self.folder, "state")
        times = [time.perf_counter()]
        state = snapshot()
        times.append(time.perf_counter())
        state.write(path)
        times.append(time.perf_counter())
        storage.publish(path, f"s3://bench/{uuid.uuid4()}")
        times.append(time.perf_counter())
        self.num_bytes = os.path.getsize(path)
        self.seconds = [later - earlier for earlier, later in pairwise(times)]


def measure(minutes: float, scheduler: str, folder: str) -> Costs:
    num_latents = latents_for(round(minutes * 60 * FPS))
    windows = plan_windows(num_latents, 21, 5)
    costs = Costs(folder=folder, wanted=STEP * len(windows) + len(windows) // 2)
    start = SamplerState(latents_BCFHW=draw_noise((1, 16, num_latents, 64, 64), 0))
    made = SCHEDULERS[scheduler](NUM_STEPS, 5.0)
    sample(lambda x, *_: x, start, windows, uniform_ramp(5), made, on_window=costs.see)
    return costs


def matmul_s() -> float:
    """Seconds of one product of float32 matrices."""
    matrix = torch.randn(MATRIX, MATRIX)
    matrix @ matrix
    started = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - started


def row(minutes: float, scheduler: str, costs: Costs, unit_s: float) -> str:
    """One row of the table."""
    mib, (copy_s, write_s, upload_s) = costs.num_bytes / 2**20, costs.seconds
    sizes = f"{minutes:g} min | {scheduler} | {mib:.0f} | {mib / minutes:.0f}"
    seconds = f"{copy_s:.2f} s | {write_s:.2f} s | {upload_s:.2f} s | {copy_s / unit_s:.2f}"
    return f"| {sizes} | {seconds} | {copy_s / SHARE:.0f} s ({sum(costs.seconds) / SHARE:.0f} s) |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 5.0])
    args = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the server's line for every request
    with serve_s3(), tempfile.TemporaryDirectory() as folder:
        boto3.client("s3").create_bucket(Bucket="bench")
        unit_s = matmul_s()
        print(f"{MATRIX}x{MATRIX} float32 product: {unit_s:.2f} s with {torch.get_num_threads()} threads\n")
        print(
            "| video | scheduler | MiB | MiB per minute | copy | write | upload | copy in products | 0.5 % at every |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for minutes in args.minutes:
            for scheduler in SCHEDULERS:
                print(row(minutes, scheduler, measure(minutes, scheduler, folder), unit_s), flush=True)


if __name__ == "__main__":
    main()
