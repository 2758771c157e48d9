"""How much faster more workers train: the transformer of a run on windows that were encoded before.

    python -m tests.benchmarks.bench_training [--config stableavatar/mini/avatar.yaml] [--workers 1,2] [--steps 60]

Each worker has one CPU (or GPU) and takes as many samples a step, so twice the workers see twice the samples in a step.
Each number of workers is run several times, in turn: the machine may be busy with other things. The best counts.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from pipelines.curve import METRICS
from pipelines.train import train
from stableavatar.training.config import TrainingConfig, read_config
from stableavatar.training.presets import TRAINING_PRESETS

WARM_UP = 20  # steps that do not count


def seconds_per_step(config: TrainingConfig, num_workers: int, num_steps: int) -> float:
    """Median of the steps after the first ones."""
    with tempfile.TemporaryDirectory() as output:
        workers = replace(config.workers, num_workers=num_workers, cpus_per_worker=1)
        train(replace(config, output=output, num_steps=num_steps, log_every=5, workers=workers))
        lines = [json.loads(line) for line in Path(output, METRICS).read_text().splitlines()]
    return statistics.median(line["s_per_step"] for line in lines if line["step"] > WARM_UP)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="stableavatar/mini/avatar.yaml")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    config = read_config(args.config, TRAINING_PRESETS)
    numbers = [int(number) for number in args.workers.split(",")]
    best = dict.fromkeys(numbers, float("inf"))
    for _ in range(args.rounds):
        for number in numbers:
            best[number] = min(best[number], seconds_per_step(config, number, args.steps))
    for number, seconds in best.items():
        samples = number * config.batch_size * config.accumulate / seconds
        gain = number * best[numbers[0]] / (seconds * numbers[0])
        print(f"{number} workers: {seconds:.3f} s per step, {samples:.2f} samples per second, {gain:.2f} times")


if __name__ == "__main__":
    main()
