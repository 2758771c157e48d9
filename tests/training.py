"""Small runs for the tests of training: a network that trains within seconds, and samples for it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pipelines.curve import METRICS
from pipelines.lines import read_lines as lines_of
from stableavatar.model.weights import encoders_hash
from stableavatar.presets import tiny
from stableavatar.training.config import Augment, Data, Optimiser, TrainingConfig, Workers
from stableavatar.training.encode import Sample, collate
from stableavatar.training.shards import as_row, write_shard

PRESET = tiny()


def small_config(**words: Any) -> TrainingConfig:
    """A run on the smallest model, in float32, on a CPU."""
    given: dict[str, Any] = dict(
        name="small",
        model="tiny",
        start="nothing",
        train="all",
        num_steps=4,
        data=Data(encoded=("unused",), num_latents=3),
        optimiser=Optimiser(lr=1e-3, warmup_steps=2, start_steps=3, eps=1e-8),
        workers=Workers(use_gpu=False, precision="fp32", gradient_checkpointing=False),
        save_as="fp32",
    )
    return TrainingConfig(**given | words)


def small_sample(seed: int, height: int = 4, width: int = 4) -> Sample:
    """What the encoder would make of a window of 9 frames, drawn by lot."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return {
        "mean": normal(16, 3, height, width),
        "logvar": normal(16, 3, height, width) - 6,
        "portrait": normal(20, 3, height, width),
        "image": normal(17, 40),
        "text": normal(5, 32),
        "audio": normal(17, 24),
        "face": torch.rand((1, 3, height, width), generator=draw),
        "lip": torch.rand((1, 3, height, width), generator=draw),
        "seed": torch.tensor(seed),
    }


def small_batch(seeds: Sequence[int]) -> Sample:
    return collate(small_sample(seed) for seed in seeds)


def silent_never(config: TrainingConfig) -> TrainingConfig:
    return replace(config, augment=Augment(silence=0.0, clip_level=0.0))


def write_encoded(folder: str, num_windows: int, first_seed: int = 0) -> None:
    """Shards as `encode-data` writes them, of samples drawn by lot."""
    for seed in range(first_seed, first_seed + num_windows):
        sample = {name: value for name, value in small_sample(seed).items() if name != "seed"}
        row = as_row(sample, clip=f"{seed}", start=0, width=32, height=32)
        write_shard(folder, [row], f"clip-{seed:03d}", encoders_hash(PRESET))


def curve_of(output: str) -> list[dict[str, float]]:
    """The lines of a run's curve, without how long they took."""
    return [
        {name: value for name, value in line.items() if name != "s_per_step"}
        for line in lines_of(f"{output}/{METRICS}")
    ]
