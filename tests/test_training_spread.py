"""Two workers in processes of their own: the same numbers as one, however the network lies on them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from stableavatar.training import trainer as trainer_stage
from stableavatar.training.config import LoraSettings, Optimiser, TrainingConfig
from stableavatar.training.encode import Sample, collate
from stableavatar.training.order import Place
from stableavatar.training.trainer import Trainer
from tests.training import small_batch, small_config

NUM_STEPS = 2
KINDS = ("ddp", "fsdp", "fsdp-lora", "vae")


def config_of(kind: str) -> TrainingConfig:
    if kind == "vae":
        return small_config(task="vae", optimiser=Optimiser(lr=1e-3, warmup_steps=1, eps=1e-8, ema_decay=0.5))
    config = small_config(lora=LoraSettings(rank=4, alpha=8) if kind.endswith("lora") else None)
    optimiser = replace(config.optimiser, ema_decay=0.5)
    return replace(config, workers=replace(config.workers, sharding=kind.removesuffix("-lora")), optimiser=optimiser)


def batch_of(kind: str, seeds: Sequence[int]) -> Sample:
    """Samples drawn by lot. Those of a VAE are pictures at first, which leave layers of it out."""
    if kind != "vae":
        return small_batch(seeds)
    num_frames = 1 if min(seeds) < 10 * NUM_STEPS else 5
    draws = (torch.Generator().manual_seed(seed) for seed in seeds)
    videos = (torch.rand((3, num_frames, 16, 16), generator=draw) * 2 - 1 for draw in draws)
    return collate({"video": video, "lip": (video[:1] > 0).float()} for video in videos)


def alone_with(kind: str) -> Trainer:
    """One worker that sees in a step what two do."""
    config = config_of(kind)  # the noise of a VAE is drawn for a batch, that of the others for a sample
    return Trainer(replace(config, accumulate=2) if kind == "vae" else replace(config, batch_size=2))


def batches_of_both(kind: str, seeds: Sequence[int]) -> list[Sample]:
    return [batch_of(kind, [seed]) for seed in seeds] if kind == "vae" else [batch_of(kind, seeds)]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    place = Place(rank=rank, num_workers=2)
    if rank:  # which never holds the whole network
        trainer_stage.starting_network = None  # type: ignore[assignment]
    for kind in KINDS:
        trainer = Trainer(config_of(kind), place)
        losses = [trainer.train_step([batch_of(kind, [10 * step + rank])]) for step in range(NUM_STEPS)]
        trainer.save(Path(folder, kind))
        again = Trainer(config_of(kind), place)
        again.load(Path(folder, kind))
        assert again.position == 2 * NUM_STEPS
        more = [one.train_step([batch_of(kind, [10 * NUM_STEPS + rank])]) for one in (trainer, again)]
        held = again.evaluate([batch_of(kind, [seed]) for seed in (5, 6, 7)])
        again.export(Path(folder, f"{kind}-model"), None)
        if rank == 0:
            torch.save({"losses": losses, "more": more, "held": held}, f"{folder}/{kind}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for kind in KINDS:
        (folder / kind).mkdir()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    mp.spawn(work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_are_one_with_twice_the_batch(two_workers: Path, kind: str) -> None:
    found = torch.load(two_workers / f"{kind}.pt")
    alone = alone_with(kind)
    for step in range(NUM_STEPS):
        # The norm of the gradient among them: the gradients are the same too.
        assert found["losses"][step] == pytest.approx(
            alone.train_step(batches_of_both(kind, [10 * step, 10 * step + 1])), rel=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_what_two_workers_save_goes_on(two_workers: Path, kind: str) -> None:
    found = torch.load(two_workers / f"{kind}.pt")
    assert found["more"][0] == found["more"][1]


@pytest.mark.parametrize("kind", KINDS)
def test_one_worker_goes_on_from_what_two_have_saved(two_workers: Path, kind: str) -> None:
    alone = alone_with(kind)
    alone.load(two_workers / kind)
    assert (alone.step, alone.position) == (NUM_STEPS, 2 * NUM_STEPS)
    step = alone.train_step(batches_of_both(kind, [10 * NUM_STEPS, 10 * NUM_STEPS + 1]))
    found = torch.load(two_workers / f"{kind}.pt")
    assert step == pytest.approx(found["more"][0], rel=1e-3)
    assert alone.evaluate([batch_of(kind, [seed]) for seed in (5, 6, 7)]) == pytest.approx(found["held"], rel=1e-3)
    assert (two_workers / f"{kind}-model" / "model.json").exists()
