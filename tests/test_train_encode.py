"""What Ray Data feeds is what a plain loop would read, in the same order."""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from pipelines.train_data import inspect_clips
from pipelines.train_encode import encode_window, encoded_batches
from stableavatar.drawn.clips import write_data_set
from stableavatar.errors import BadInput
from stableavatar.presets import tiny
from stableavatar.training.clips import Clip, find_clips
from stableavatar.training.config import Data, TrainingConfig
from stableavatar.training.encode import Encoder, collate
from stableavatar.training.feed import read_sample
from stableavatar.training.order import Draw, Order, Place
from stableavatar.training.shards import as_sample
from tests.training import small_config

NUM_LATENTS = 2


class PlainLoop:
    """The same windows, encoded right here."""

    def __init__(self, clips: list[Clip]):
        self.clips, self.encoder = clips, Encoder.load(tiny(), "cpu")

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, draw: Draw) -> dict[str, torch.Tensor]:
        return as_sample(encode_window(self.encoder, self.clips[draw.index], NUM_LATENTS, draw.seed))


class Deadly(Clip):
    """A clip that kills who reads it."""

    def __getattribute__(self, name: str) -> Any:
        if name == "num_frames" and ray.get_runtime_context().get_actor_id():
            os._exit(1)
        return super().__getattribute__(name)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> list[Clip]:
    root = tmp_path_factory.mktemp("drawn")
    for size, number in (((64, 64), 3), ((96, 64), 2)):
        write_data_set(str(root), number, first_seed=3, size=size, num_frames=9)
    found, skipped = inspect_clips(find_clips([str(root)]), config_for(1, ((64, 64), (96, 64))), tiny())
    assert len(found) == 5 and not skipped
    (Path(found[3].folder) / "images/frame_4.png").unlink()  # lost since: another one stands in
    return found


def config_for(batch_size: int, sizes: tuple[tuple[int, int], ...] = ()) -> TrainingConfig:
    data = Data(clips=("drawn",), num_latents=NUM_LATENTS, sizes=sizes, num_loaders=1)
    return small_config(data=data, batch_size=batch_size)


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "start", "num_workers"), [(1, 3, 2), (2, 6, 1)])
def test_the_batches_are_those_of_a_plain_loop(
    clips: list[Clip], batch_size: int, start: int, num_workers: int
) -> None:
    config, place = config_for(batch_size), Place(rank=num_workers - 1, num_workers=num_workers)
    batches = list(encoded_batches(config, clips, start, 4, place))
    source = PlainLoop(clips)
    sizes = [(clip.width, clip.height) for clip in clips]
    order = Order(len(clips), config.seed, batch_size, sizes)
    plain = [read_sample(source, draw, order) for draw in islice(order.draws(start, place), 4 * batch_size)]
    expected = [collate(plain[at : at + batch_size]) for at in range(0, len(plain), batch_size)]
    assert len(batches) == 4
    for batch, wanted in zip(batches, expected, strict=True):
        assert batch.keys() == wanted.keys()
        assert [name for name in batch if not torch.equal(batch[name], wanted[name])] == []
    assert len({batch["mean"].sum().item() for batch in batches}) > 1


@pytest.mark.slow
def test_clips_that_cannot_be_read_say_so(clips: list[Clip], tmp_path: Path) -> None:
    gone = [replace(clip, folder=str(tmp_path / "gone")) for clip in clips]
    with pytest.raises(BadInput, match="gone: a file has gone since"):
        list(encoded_batches(config_for(1), gone, 0, 2, Place()))


@pytest.mark.slow
def test_a_clip_that_kills_its_loader_ends_the_run(clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="died"):
        list(encoded_batches(config_for(1), [Deadly(**vars(clips[0]))], 0, 2, Place()))


def test_an_encoded_window_is_what_the_model_asks_for(clips: list[Clip]) -> None:
    sample = as_sample(encode_window(Encoder.load(tiny(), "cpu"), clips[0], NUM_LATENTS, 1))
    width, height = clips[0].width // 8, clips[0].height // 8
    assert sample["mean"].shape == sample["logvar"].shape == (16, NUM_LATENTS, height, width)
    assert sample["portrait"].shape == (20, NUM_LATENTS, height, width)
    assert sample["face"].shape == sample["lip"].shape == (1, NUM_LATENTS, height, width)
    assert sample["lip"].min() >= 0 and 0 < sample["lip"].max() <= 1
    assert collate([sample, sample])["text"].shape[0] == 2
